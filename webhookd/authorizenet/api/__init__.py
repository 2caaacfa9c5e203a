"""The API of Authorize.Net: webhooks and their history by REST, reports by JSON. Nothing here can move money.

`operations` has the list of calls that may be sent; `client` sends them; `results` has the answers as types.
"""
