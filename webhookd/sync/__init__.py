"""The role `sync`: asks the provider what it knows, and compares it with what webhookd got."""
