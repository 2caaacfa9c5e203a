"""The provider's side of each account: what Authorize.Net knows, compared with what webhookd has."""
