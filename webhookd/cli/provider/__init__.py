"""The commands that ask the provider: its webhooks, its history, and the account's credentials."""
