"""
The store: Valkey 9 or Redis 7, single, behind Sentinel or as a cluster.

Architecture
    `client`   connections, time-outs, the breaker, and whose store this is
    `patience` what a time-out is where the event loop is late
    `keys`     every name that is ever used, and which partition it lies in
    `packing`  checks and bookings as bytes for the scripts, the scripts' answers as values
    `ledger`   micro-batches of checks, one script call each
    `books`    requests that are over, booked once each
    `usage`    what was booked
    `records`  the records of keys, remembered for the check
    `registry` the records of keys, for those who manage them
    `scripts/` the Lua, each with its KEYS, ARGV and answer

Atomicity
    All of a tenant's state lies in one partition, and so in one slot of a cluster. One `admit` call judges a batch of
    checks of one partition (on a single server: of any), in one atomic step.

Faults
    Everything that goes wrong is a `StoreFault`, within `store.timeout` where the loop is in time. Nothing is retried
    that could be charged twice without that being on the safe side.
"""
