"""The portals of the profiles: small services of their own shape, on the use cases of the admin API."""
