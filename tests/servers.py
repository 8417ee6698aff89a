"""A real Kafka broker and a real Redis as child processes: for the tests, and to try things out by hand.

    python -m tests.servers kafka --port 9092     (what `make kafka` runs)
    python -m tests.servers redis --port 6379     (what `make redis` runs)

The broker is Apache Kafka from Maven Central, fetched once into `.kafka/`; it needs Java 17 and Maven.
"""

import argparse
import fcntl
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from bench._ports import free_port, free_ports, listens
from tests.certificates import Authority

KAFKA_VERSION = "4.1.0"
KAFKA_HOME = Path(__file__).parent.parent / ".kafka"

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>broker</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version>
    </dependency>
  </dependencies>
</project>
"""
# The short session lets a broker that was killed come back at once: its old session must end first.
_PROPERTIES = """process.roles=broker,controller
node.id=1
listeners={listeners},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners={listeners}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller_port}
log.dirs={folder}/data
auto.create.topics.enable=false
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
"""
# One listener for clients with a password or a token (which nobody signs), one for those with a certificate.
_SECURED = """listener.security.protocol.map={protocols}
ssl.keystore.type=PEM
ssl.keystore.location={folder}/tls/broker.chain
ssl.truststore.type=PEM
ssl.truststore.location={folder}/tls/ca.pem
listener.name.ssl.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl_ssl.plain.sasl.jaas.config={security}.plain.PlainLoginModule required \\
  user_{user}="{password}";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={security}.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={security}.scram.ScramLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config={security}.oauthbearer.OAuthBearerLoginModule required \\
  unsecuredLoginStringClaim_sub="broker";
"""
_SECURITY = "org.apache.kafka.common.security"
_PROTOCOLS = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL"
KAFKA_USER, KAFKA_PASSWORD = "hearken", "correct-horse"
_JAVA = ("java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_STARTUP_SECONDS = 180.0


def fetch_kafka() -> Path:
    """The folder with the broker's jars, fetched with Maven when it is not there yet."""
    jars = KAFKA_HOME / f"lib-{KAFKA_VERSION}"
    KAFKA_HOME.mkdir(exist_ok=True)
    with (KAFKA_HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars.exists():
            partial = KAFKA_HOME / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            (KAFKA_HOME / "pom.xml").write_text(_POM)
            command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={partial}"]
            subprocess.run(command, cwd=KAFKA_HOME, check=True, stdin=subprocess.DEVNULL)
            partial.rename(jars)
    return jars


class KafkaServer:
    """One KRaft broker on loopback whose data lies in `folder`; it can be killed and started again.

    secured: it also listens at `sasl_ssl` for clients with a password (`KAFKA_USER`, `KAFKA_PASSWORD`) or a
    token, and at `ssl` for those with a certificate of `authority`.
    """

    def __init__(self, folder: Path, port: int | None = None, *, secured: bool = False) -> None:
        self.folder = folder
        first = free_ports(4)
        self.port = port or first
        self.bootstrap = f"127.0.0.1:{self.port}"
        self._controller_port = first + 1
        self.sasl_ssl, self.ssl = f"127.0.0.1:{first + 2}", f"127.0.0.1:{first + 3}"
        self.authority = Authority(folder / "tls") if secured else None
        self._classpath = f"{fetch_kafka()}/*"
        self._process: subprocess.Popen[bytes] | None = None
        self._format()

    def _format(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self.folder / "server.properties"
        settings.write_text(self._properties())
        if not (self.folder / "data" / "meta.properties").exists():
            tool = [*_JAVA, "-cp", self._classpath, "kafka.tools.StorageTool", "format"]
            arguments = ["-t", "hearken-local-cluster0", "-c", str(settings)]
            if self.authority is not None:
                for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                    user = f"[name={KAFKA_USER},password={KAFKA_PASSWORD}]"
                    arguments += ["--add-scram", f"{mechanism}={user}"]
            subprocess.run([*tool, *arguments], check=True, stdout=subprocess.DEVNULL)

    def _properties(self) -> str:
        listeners = f"PLAINTEXT://{self.bootstrap}"
        extra = ""
        if self.authority is not None:
            listeners += f",SASL_SSL://{self.sasl_ssl},SSL://{self.ssl}"
            pair = self.authority.signed("broker", "DNS:localhost,IP:127.0.0.1")
            (self.folder / "tls" / "broker.chain").write_bytes(b"".join(each.read_bytes() for each in pair))
            told = {"user": KAFKA_USER, "password": KAFKA_PASSWORD}
            told |= {"security": _SECURITY, "protocols": _PROTOCOLS}
            extra = _SECURED.format(folder=self.folder, **told)
        return extra + _PROPERTIES.format(
            listeners=listeners, controller_port=self._controller_port, folder=self.folder
        )

    def start(self) -> None:
        """Start the broker and wait until it answers. Raises `RuntimeError` when it ends before that."""
        settings = str(self.folder / "server.properties")
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_JAVA, "-cp", self._classpath, "kafka.Kafka", settings], stdout=log, stderr=log
            )
        deadline = time.monotonic() + _STARTUP_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Kafka did not start; see {self.folder / 'broker.log'}")

    def _answers(self) -> bool:
        if not listens(self.port):
            time.sleep(0.05)
            return False
        try:
            admin = KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=2000)
        except KafkaError:
            return False
        admin.close()
        return True

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def wait(self) -> int:
        """Wait until it ends by itself; its exit status."""
        assert self._process is not None
        return self._process.wait()

    def freeze(self) -> None:
        """Let it hang, with its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None


class RedisServer:
    """One Redis on loopback that keeps nothing on disk."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers. Raises `RuntimeError` when it ends before that."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + _STARTUP_SECONDS
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"Redis did not start on port {self.port}") from None
                    time.sleep(0.02)

    def stop(self) -> None:
        """End it."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def wait(self) -> int:
        """Wait until it ends by itself; its exit status."""
        assert self._process is not None
        return self._process.wait()


def need(*programs: str) -> None:
    """Skip the test when a program is not installed. In CI (env CI=true) it fails, see tests/conftest.py."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A real broker, secured, that all tests share: use topics of your own."""
    need("java", "mvn", "openssl")
    server = KafkaServer(tmp_path_factory.mktemp("kafka"), secured=True)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def kafka_bootstrap(kafka_server: KafkaServer) -> str:
    """Where the shared broker listens without TLS and passwords."""
    return kafka_server.bootstrap


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of a real Redis that all tests share: use keys of your own."""
    need("redis-server")
    server = RedisServer()
    try:
        server.start()
        yield server.url
    finally:
        server.stop()


def main() -> int:
    """Run one server in the foreground until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=main.__doc__)
    parser.add_argument("kind", choices=("kafka", "redis"))
    parser.add_argument("--port", type=int, help="default: 9092 for kafka, 6379 for redis")
    parser.add_argument("--data", type=Path, help="kafka's data folder (default: a temporary one)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's stop is a Ctrl-C too
    with tempfile.TemporaryDirectory(prefix="hearken-kafka-") as temporary:
        server: KafkaServer | RedisServer
        if arguments.kind == "kafka":
            folder = (arguments.data or Path(temporary)).absolute()
            server = KafkaServer(folder, arguments.port or 9092)
        else:
            server = RedisServer(arguments.port or 6379)
        try:
            server.start()
            print(f"{arguments.kind} answers on 127.0.0.1:{server.port}; Ctrl-C ends it", flush=True)
            return server.wait()
        except KeyboardInterrupt:
            return 0
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
