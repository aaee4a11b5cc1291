"""The deployed app: the only code that knows the web, the database and the schedule."""
