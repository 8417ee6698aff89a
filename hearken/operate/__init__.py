"""Operations from the command line: status, releases, keys, the registry, and what is wrong."""
