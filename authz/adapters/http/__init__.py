"""HTTP doors, on Starlette and uvicorn: for now metrics and health."""
