"""Handlers, one file a journey, and the pages people see."""
