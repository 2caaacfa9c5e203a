import pytest
import shop

from webhookd.testing import Handlers, Trial

pytest_plugins = ["webhookd.testing.fixtures"]


@pytest.fixture
def webhookd_handlers() -> Handlers:
    return [shop]


@pytest.fixture(autouse=True)
async def orders(trial: Trial) -> None:
    await trial.connection.execute("CREATE TABLE orders (transaction_id text PRIMARY KEY, paid numeric)")
