from webhookd import Connection, Event, Retryable, on


@on("payment.authcapture.created")
async def book(event: Event, connection: Connection) -> None:
    payment = event.payload
    if payment.get("responseCode") != 1:
        return  # the payment was declined or is held, or the event is a test
    booked = await connection.execute(
        "UPDATE orders SET paid = $1 WHERE transaction_id = $2", payment["authAmount"], payment["id"]
    )
    if booked == "UPDATE 0":
        raise Retryable("the shop has not stored the transaction's id yet", after=60)
