"""The operator's command line. It uses the admin API, and needs only the API's URL and a token."""
