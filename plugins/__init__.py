"""The plugin contract, and the built-in plugins, written as a stranger would write them."""
