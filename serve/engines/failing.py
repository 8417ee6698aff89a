"""Why a request got no answer, in one word for the log: guardrails compare the arms by it.

engine      the engine answered with an error of its own, or with what is no answer; whoever is to blame
lost        the engine did not answer, or its connection broke
missing     no engine has the policy
overloaded  no engine had a place for it in time, or none was left that it could be tried on
abandoned   the client left before the first token: its own time-out, mostly
internal    a mistake of the gateway
"""

import asyncio

from serve.engines.upstream import Failed, PolicyMissing, Refused, UpstreamError
from serve.http.errors import ApiError, ClientGone, Unavailable


def failure_of(error: BaseException) -> str | None:
    """The word for what a request ended with; None where the request itself is at fault, which an engine said
    or a check found."""
    if isinstance(error, ApiError) and error.__cause__ is not None:
        error = error.__cause__
    match error:
        case asyncio.CancelledError() | GeneratorExit() | ClientGone():
            return "abandoned"
        case PolicyMissing():
            return "missing"
        case Failed():
            return "engine"
        case Refused():
            return "overloaded" if error.status in (408, 429) else None
        case UpstreamError():
            return "lost"
        case Unavailable():
            return "overloaded"
        case ApiError():
            return None
    return "internal" if isinstance(error, Exception) else None
