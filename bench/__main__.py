"""`python -m bench NAME [flags]`: run one benchmark. `python -m bench` lists them."""

import importlib
import pkgutil
import signal
import sys

import bench


def main(argv: list[str]) -> int:
    """Run `bench/NAME.py`'s `main(argv)`. Each module with a docstring and a `main` is a benchmark."""
    names = [module.name for module in pkgutil.iter_modules(bench.__path__) if module.name[0] != "_"]
    if not argv or argv[0] not in names:
        print(f"python -m bench NAME, where NAME is one of: {', '.join(sorted(names))}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and with it the servers that it started
    return int(importlib.import_module(f"bench.{argv[0]}").main(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
