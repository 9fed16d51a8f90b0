"""The `authz` command: data on stdout, everything else on stderr; 0 done, 1 failed, 2 bad usage or configuration."""
