-- The filters of events of which each has an index. They stand in the scan of the ledger `l`. NULL stands for any value.
(:wanted.entity_id::text IS NULL OR l.entity_id = :wanted.entity_id)
AND (:wanted.invoice_number::text IS NULL OR l.invoice_number = :wanted.invoice_number)
AND (:wanted.merchant_reference::text IS NULL OR l.merchant_reference = :wanted.merchant_reference)
