"""The admin API's messages and the use cases, each from the other. Knows no door."""
