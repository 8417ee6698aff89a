"""Whether settings can be used, by all roles: `hearken config check`."""

from hearken.config.fields import NEEDED
from hearken.config.layers import Given
from hearken.config.resolve import Config
from hearken.errors import UsageError


def problems(config: Config) -> list[str]:
    """What each table's class would refuse, one line each; none where all is well.

    A learner without a model is well, as `hearken up` then takes the tiny one.
    """
    if config.get("learner.model").value is NEEDED:
        config = config.over({"learner.model": Given("the tiny model", "default")})
    found = []
    for table in config.tables.classes:
        try:
            config.build(table)
        except UsageError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))
