"""The service without a framework: what it makes, finds and refuses, and that modes and workspaces never meet."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorkey import Mode
from doorkey.demo.service import KINDS, Database, Fault, Page

CHARGE: dict[str, object] = {"amount": 2000, "currency": "kes"}
SENT: dict[str, dict[str, object]] = {
    "charges": CHARGE,
    "payments": CHARGE,
    "tokens": {"card[number]": "4242" * 4},
    "messages": {"to": "+254722000000", "body": "Hello"},
}


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "test.db", Mode.TEST)


def fault_of(database: Database, collection: str, sent: dict[str, Any]) -> Fault:
    with pytest.raises(Fault) as caught:
        database.create("ws_1", collection, sent)
    return caught.value


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("collection", KINDS)
def test_an_object_says_what_it_is_and_of_which_mode(tmp_path: Path, mode: Mode, collection: str) -> None:
    """Each object has id, object, created and livemode, and is found again as it was made."""
    database = Database(tmp_path / "x.db", mode)
    made = database.create("ws_1", collection, SENT[collection])
    assert made["id"].startswith(KINDS[collection].prefix + "_")
    assert made["object"] == KINDS[collection].object
    assert isinstance(made["created"], int)
    assert made["livemode"] is (mode is Mode.LIVE)
    assert Database(tmp_path / "x.db", mode).retrieve("ws_1", collection, made["id"]) == made


def test_what_is_kept_of_a_card(database: Database, tmp_path: Path) -> None:
    """Its last four digits, and nothing else."""
    made = database.create("ws_1", "tokens", {"card[number]": "5555444433332222", "card[cvc]": "987"})
    assert made["card"] == {"last4": "2222"}
    assert b"55554444" not in (tmp_path / "test.db").read_bytes()


def test_a_charge_may_name_a_payment_token_of_its_own_mode(database: Database, tmp_path: Path) -> None:
    """A payment token of the other mode or of another workspace is unknown, and the charge is not made."""
    token = database.create("ws_1", "tokens", SENT["tokens"])["id"]
    assert database.create("ws_1", "charges", {**CHARGE, "source": token})["source"] == token
    live = Database(tmp_path / "live.db", Mode.LIVE)
    for elsewhere, workspace in ((live, "ws_1"), (database, "ws_2")):
        with pytest.raises(Fault) as caught:
            elsewhere.create(workspace, "charges", {**CHARGE, "source": token})
        assert (caught.value.status, caught.value.code, caught.value.param) == (400, "resource_missing", "source")
        assert elsewhere.list(workspace, "charges", {}).data == []


def test_the_card_of_everybodys_tests(database: Database, tmp_path: Path) -> None:
    """It pays in test mode alone."""
    assert database.create("ws_1", "charges", {**CHARGE, "source": "tok_visa"})["source"] == "tok_visa"
    with pytest.raises(Fault, match="no token 'tok_visa'"):
        Database(tmp_path / "live.db", Mode.LIVE).create("ws_1", "charges", {**CHARGE, "source": "tok_visa"})


@pytest.mark.parametrize("collection", KINDS)
def test_what_clients_keep_for_themselves(database: Database, collection: str) -> None:
    """Fields by names of their own come back as they were sent; a null is none."""
    own = {"metadata[order]": 17, "metadata[a b]": "é", "metadata[empty]": "", "metadata[none]": None}
    made = database.create("ws_1", collection, {**SENT[collection], **own}, "key 1")
    assert made["metadata"] == {"order": "17", "a b": "é", "empty": ""}
    assert database.create("ws_1", collection, {**SENT[collection], **own}, "key 1") == made
    assert database.create("ws_1", collection, SENT[collection])["metadata"] == {}
    with pytest.raises(Fault, match="another request"):
        database.create("ws_1", collection, SENT[collection] | {"metadata[order]": 18}, "key 1")


@pytest.mark.parametrize(
    ("own", "code", "param"),
    [
        ({"metadata[x]": "y" * 501}, "parameter_invalid", "metadata[x]"),
        ({"metadata[x]": []}, "parameter_invalid", "metadata[x]"),
        ({"metadata[" + "x" * 41 + "]": "y"}, "parameter_unknown", "metadata[" + "x" * 41 + "]"),
        ({"metadata": "y"}, "parameter_unknown", "metadata"),
        ({f"metadata[{number}]": "y" for number in range(51)}, "parameter_invalid", "metadata"),
    ],
)
def test_metadata_that_cannot_be_used(database: Database, own: dict[str, object], code: str, param: str) -> None:
    """It is a 400 that names the field, and nothing is made."""
    fault = fault_of(database, "charges", {**CHARGE, **own})
    assert (fault.status, fault.code, fault.param) == (400, code, param)


def test_how_a_payment_is_made(database: Database) -> None:
    """By whom and from which telephone, if that is said; true and false are words in forms and values in JSON."""
    said = {"mpesa[phone]": "+254722000000", "mpesa[reference]": "INV-1", "mpesa[destination]": "600000"}
    for paybill in (True, "true"):
        made = database.create("ws_1", "payments", {**CHARGE, **said, "mpesa[paybill]": paybill, "customer": "cust_1"})
        assert made["customer"] == "cust_1"
        assert made["mpesa"] == {
            "phone": "+254722000000",
            "reference": "INV-1",
            "destination": "600000",
            "paybill": "true",
        }
    assert database.create("ws_1", "payments", CHARGE)["mpesa"] is None


def test_workspaces_do_not_see_each_other(database: Database) -> None:
    """Neither one by one, nor in lists, nor in sums."""
    made = database.create("ws_1", "charges", CHARGE)
    with pytest.raises(Fault):
        database.retrieve("ws_2", "charges", made["id"])
    assert database.list("ws_2", "charges", {}).data == []
    assert database.balance("ws_2")["available"] == []


@pytest.mark.parametrize("id", ["ch_" + "0" * 24, "", "ch_1", "'; DROP TABLE objects; --", "ch_\udc80", "\0"])
def test_an_object_that_is_not_there(database: Database, id: str) -> None:
    """Whatever the id looks like, the answer is 404."""
    with pytest.raises(Fault) as caught:
        database.retrieve("ws_1", "charges", id)
    assert (caught.value.status, caught.value.code) == (404, "resource_missing")


def test_an_object_is_found_in_its_own_collection_only(database: Database) -> None:
    """A message is no charge."""
    made = database.create("ws_1", "messages", SENT["messages"])
    with pytest.raises(Fault):
        database.retrieve("ws_1", "charges", made["id"])


def test_a_list_goes_from_the_newest_and_page_by_page(database: Database) -> None:
    """Each page begins after the one before, and says whether another follows."""
    ids = [database.create("ws_1", "charges", CHARGE)["id"] for _ in range(3)]
    database.create("ws_1", "messages", SENT["messages"])
    page = database.list("ws_1", "charges", {"limit": "2"})
    assert (page.collection, page.has_more) == ("charges", True)
    assert [charge["id"] for charge in page.data] == [ids[2], ids[1]]
    rest = database.list("ws_1", "charges", {"limit": "2", "starting_after": ids[1]})
    assert rest.has_more is False
    assert [charge["id"] for charge in rest.data] == [ids[0]]


def test_a_list_goes_back_page_by_page(database: Database) -> None:
    """Each page ends right before the one that the client has, from the newest, and says whether newer ones follow."""
    ids = [database.create("ws_1", "charges", CHARGE)["id"] for _ in range(4)]
    page = database.list("ws_1", "charges", {"limit": "2", "ending_before": ids[0]})
    assert ([charge["id"] for charge in page.data], page.has_more) == ([ids[2], ids[1]], True)
    rest = database.list("ws_1", "charges", {"limit": "2", "ending_before": ids[2]})
    assert ([charge["id"] for charge in rest.data], rest.has_more) == ([ids[3]], False)


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ({"limit": "0"}, "parameter_invalid", "limit"),
        ({"limit": "101"}, "parameter_invalid", "limit"),
        ({"limit": "\u0662"}, "parameter_invalid", "limit"),
        ({"page": "2"}, "parameter_unknown", "page"),
        ({"starting_after": "x"}, "parameter_invalid", "starting_after"),
        ({"starting_after": "ch_" + "0" * 24}, "resource_missing", "starting_after"),
        ({"ending_before": "ch_" + "0" * 24}, "resource_missing", "ending_before"),
        (dict.fromkeys(("starting_after", "ending_before"), "ch_" + "0" * 24), "parameter_invalid", "ending_before"),
    ],
)
def test_a_query_that_cannot_be_used(database: Database, query: dict[str, str], code: str, param: str) -> None:
    """It is a 400 that names the parameter."""
    with pytest.raises(Fault) as caught:
        database.list("ws_1", "charges", query)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


def test_the_balance_is_the_sum_of_all_charges_and_payments(database: Database) -> None:
    """Per currency, and only of those."""
    for collection, amount, currency in (("charges", 1, "kes"), ("charges", 2, "usd"), ("payments", 3, "kes")):
        database.create("ws_1", collection, {"amount": amount, "currency": currency})
    database.create("ws_1", "messages", SENT["messages"])
    assert database.balance("ws_1") == {
        "object": "balance",
        "livemode": False,
        "available": [{"amount": 4, "currency": "kes"}, {"amount": 2, "currency": "usd"}],
    }


@pytest.mark.parametrize(
    "amount", ["", "0", "-1", "1.5", "1e3", "100000000", " 1", "1\n", "\u0661", 1.0, True, [1], {}]
)
def test_an_amount_that_cannot_be_used(database: Database, amount: object) -> None:
    """Money is a positive whole number in ASCII digits."""
    fault = fault_of(database, "charges", {**CHARGE, "amount": amount})
    assert (fault.status, fault.code, fault.param) == (400, "parameter_invalid", "amount")


def test_fields_that_are_missing_or_unknown(database: Database) -> None:
    """Each is a 400 that names the field; a field of null is missing."""
    fault = fault_of(database, "charges", {"amount": None, "currency": "kes"})
    assert (fault.status, fault.code, fault.param) == (400, "parameter_missing", "amount")
    fault = fault_of(database, "charges", {**CHARGE, "api_key": "x"})
    assert (fault.status, fault.code, fault.param) == (400, "parameter_unknown", "api_key")
    assert database.list("ws_1", "charges", {}).data == []


def test_a_collection_that_is_not_there(database: Database) -> None:
    """Nothing can be made, found or listed in it."""
    calls: tuple[Callable[[], object], ...] = (
        lambda: database.create("ws_1", "refunds", {}),
        lambda: database.retrieve("ws_1", "refunds", "re_1"),
        lambda: database.list("ws_1", "refunds", {}),
    )
    for call in calls:
        with pytest.raises(Fault) as caught:
            call()
        assert (caught.value.status, caught.value.code) == (404, "path_unknown")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(collection=st.sampled_from(sorted(KINDS)), data=st.data())
def test_whatever_is_sent_makes_an_object_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, collection: str, data: st.DataObject
) -> None:
    """Nothing that a client sends is an exception of another kind, and what is made can be sent as JSON."""
    names = st.sampled_from([*KINDS[collection].fields, "other"])
    sent = data.draw(st.dictionaries(names, VALUES | st.sampled_from(list(SENT[collection].values())), max_size=4))
    database = Database(tmp_path_factory.getbasetemp() / "any.db", Mode.TEST)
    try:
        made = database.create("ws_1", collection, sent)
    except Fault as fault:
        assert fault.status in (400, 404)
    else:
        assert database.retrieve("ws_1", collection, made["id"]) == made


@pytest.mark.parametrize("collection", KINDS)
def test_a_request_that_is_repeated_makes_one_object(database: Database, collection: str) -> None:
    """By its idempotency key; another key, or none, makes another."""
    first = database.create("ws_1", collection, SENT[collection], "key 1")
    assert database.create("ws_1", collection, SENT[collection], "key 1") == first
    for other in ("key 2", "", None, ""):
        assert database.create("ws_1", collection, SENT[collection], other)["id"] != first["id"]
    assert len(database.list("ws_1", collection, {}).data) == 5


def test_an_idempotency_key_belongs_to_its_workspace_and_mode(database: Database, tmp_path: Path) -> None:
    """Whoever chooses the same one elsewhere gets an object of his own."""
    live = Database(tmp_path / "live.db", Mode.LIVE)
    places = ((database, "ws_1"), (database, "ws_2"), (live, "ws_1"))
    assert len({place.create(workspace, "charges", CHARGE, "key 1")["id"] for place, workspace in places}) == 3


@pytest.mark.parametrize(
    ("collection", "sent", "key", "code"),
    [
        ("charges", {**CHARGE, "amount": 1}, "key 1", "idempotency_key_reused"),
        ("charges", {**CHARGE, "description": "another"}, "key 1", "idempotency_key_reused"),
        ("payments", CHARGE, "key 1", "idempotency_key_reused"),
        ("charges", CHARGE, "k" * 256, "idempotency_key_invalid"),
    ],
)
def test_an_idempotency_key_that_cannot_be_used(
    database: Database, collection: str, sent: dict[str, object], key: str, code: str
) -> None:
    """For another request, or because of its length: nothing is made, and Stripe's clients know the type."""
    made = database.create("ws_1", "charges", CHARGE, "key 1")
    with pytest.raises(Fault) as caught:
        database.create("ws_1", collection, sent, key)
    assert (caught.value.status, caught.value.code, caught.value.type) == (400, code, "idempotency_error")
    assert database.list("ws_1", "charges", {}) == Page("charges", [made], has_more=False)
    assert database.list("ws_1", "payments", {}).data == []


def test_a_request_that_failed_may_be_repeated(database: Database) -> None:
    """Its key is not used up."""
    with pytest.raises(Fault):
        database.create("ws_1", "charges", {**CHARGE, "amount": -1}, "key 1")
    assert database.create("ws_1", "charges", CHARGE, "key 1")["amount"] == 2000


def test_requests_that_are_repeated_at_once_make_one_object(database: Database) -> None:
    """One makes it, the others wait for it."""
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: database.create("ws_1", "charges", CHARGE, "key 1")["id"], range(32)))
    assert len(set(made)) == 1
    assert len(database.list("ws_1", "charges", {}).data) == 1
