"""The operator's command line: it talks to the admin API, and needs nothing but its URL and a token."""
