"""`authz demo`: the whole stack on one machine, from real parts, for people to try and for tests to run against."""
