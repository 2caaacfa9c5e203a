held AS MATERIALIZED (
    SELECT true FROM webhookd.provider_accounts WHERE account = :account AND holder = :holder::uuid FOR SHARE
)
