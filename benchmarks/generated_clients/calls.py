"""Call every operation through the generated client; `generated_clients` runs this."""

import importlib
import io
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import attrs
import httpx
import reckeeper_generated.api
from reckeeper_generated import models
from reckeeper_generated.api.audit import list_audit_entries, verify_audit
from reckeeper_generated.api.catalogue import (
    delete_item,
    get_item,
    list_items,
    patch_item,
    put_item,
    store_items,
)
from reckeeper_generated.api.demo_data import delete_demo, get_demo
from reckeeper_generated.api.imports import (
    create_import,
    get_import,
    get_refused,
    list_imports,
    preview_import,
    undo_import,
)
from reckeeper_generated.api.interactions import (
    add_to_watchlist,
    create_interactions,
    get_watchlist,
    list_dead_letters,
    list_interactions,
    list_latest,
    remove_from_watchlist,
    summarize_interactions,
)
from reckeeper_generated.api.keys import create_key, get_access, list_keys, revoke_key
from reckeeper_generated.api.operation import get_liveness, get_metrics, get_readiness
from reckeeper_generated.api.people import (
    erase_user,
    export_user,
    get_erasure,
    list_erasures,
    merge_users,
)
from reckeeper_generated.api.policy import get_policy, list_policies, set_policy
from reckeeper_generated.api.recommendations import (
    find_similar_items,
    find_similar_to_several,
    get_recommendations,
    recommend_from_history,
    recommend_to_users,
)
from reckeeper_generated.api.training import (
    cancel_job,
    evaluate,
    finish_job,
    follow_job,
    get_job,
    list_jobs,
    list_recipes,
    retrain,
)
from reckeeper_generated.api.versions import (
    activate_model,
    compare_models,
    delete_model,
    download_model,
    download_pickle,
    get_model,
    import_model,
    list_models,
    list_timeline,
    pin_model,
    roll_back,
    unpin_model,
    update_model,
)
from reckeeper_generated.client import AuthenticatedClient as Client
from reckeeper_generated.types import File, Response

T = TypeVar("T")


def recorded() -> tuple[set[str], set[str]]:
    """Return the names of all operations, and of those that are called from now on."""
    names: set[str] = set()
    called: set[str] = set()

    def recording(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def record(*given: object, **named: object) -> object:
            called.add(name)
            return call(*given, **named)

        return record

    for module in pkgutil.walk_packages(
        reckeeper_generated.api.__path__, "reckeeper_generated.api."
    ):
        operation: Any = importlib.import_module(module.name)
        if not module.ispkg:
            name = module.name.rpartition(".")[2]
            names.add(name)
            operation.sync_detailed = recording(name, operation.sync_detailed)
    return names, called


def given(response: Response[Any], kind: type[T], status: int = 200) -> T:
    """Return an answer, which is of its type and holds nothing that the type does not know."""
    assert response.status_code == status, (response.status_code, response.content)
    assert isinstance(response.parsed, kind), (kind, response.content)
    unknown = list(unnamed(response.parsed, kind.__name__))
    assert not unknown, unknown
    return response.parsed


def unnamed(value: object, where: str) -> Iterator[str]:
    """Yield what is in an answer and has no name in its type."""
    kind: Any = type(value)
    if isinstance(value, list):
        for item in value:
            yield from unnamed(item, where)
    elif attrs.has(kind) and not isinstance(value, File):
        fields = {field.name for field in attrs.fields(kind)} - {"additional_properties"}
        if fields:  # without any it is an open object
            yield from (f"{where}.{name}" for name in getattr(value, "additional_properties", ()))
        for name in fields:
            yield from unnamed(getattr(value, name), f"{where}.{name}")


def send(client: Client) -> None:
    """Send interactions, one and many, good and bad, and read them back."""
    one = models.Interaction(user_id="u1", item_id=1, interaction_type="click")
    sent = given(create_interactions.sync_detailed(client=client, body=one), models.SendAnswer)
    assert (sent.accepted, sent.duplicates) == (1, 0)
    many = [
        models.Interaction(
            user_id=f"u{user}",
            item_id=(user * step) % 17,
            interaction_type="click",
            weight=2.0,
            occurred_at=datetime(2025, 12, 1 + step, tzinfo=UTC),
        )
        for user in range(40)
        for step in range(1, 9)
    ]
    bad = models.Interaction(user_id="u1", item_id="i1", interaction_type="no_such_type")
    skip = models.CreateInteractionsOnError.SKIP
    answer = create_interactions.sync_detailed(client=client, body=[*many, bad], on_error=skip)
    sent = given(answer, models.SendAnswer)
    assert isinstance(sent.refused, list)
    assert (sent.accepted, [row.field for row in sent.refused]) == (320, ["interaction_type"])
    refused = create_interactions.sync_detailed(client=client, body=bad)
    assert given(refused, models.Error, 422).code == "invalid_data"
    stored = given(list_interactions.sync_detailed("u2", client=client), models.InteractionList)
    assert all(row.occurred_at.tzinfo for row in stored.interactions)
    for change in (add_to_watchlist, remove_from_watchlist):
        given(change.sync_detailed("u1", "3", client=client), models.SendAnswer)
        given(get_watchlist.sync_detailed("u1", client=client), models.Watchlist)


def take_in(client: Client) -> None:
    """Look at a file, import it as a body and in a form, watch it, and undo it."""
    content = b"user_id,item_id\nf1,1\nf2,\n"
    looked = preview_import.sync_detailed(client=client, body=File(io.BytesIO(content)))
    found = given(looked, models.ImportPreview)
    assert (found.form.delimiter, found.rows[0].user_id) == (",", "f1")
    begun = create_import.sync_detailed(
        client=client, body=File(io.BytesIO(content)), filename="shop.csv"
    )
    number = given(begun, models.ImportAnswer, 202).import_.import_id
    told = ended(client, number)
    assert (told.source, told.accepted, told.refusals[0].rows) == ("shop.csv", 1, 1)
    assert b"item_id" in get_refused.sync_detailed(number, client=client).content
    form = models.CreateImportFilesBody(file=File(io.BytesIO(content), file_name="shop.csv"))
    again = given(create_import.sync_detailed(client=client, body=form), models.ImportAnswer, 202)
    assert ended(client, again.import_.import_id).duplicates == 1
    page = given(list_imports.sync_detailed(client=client, limit=1), models.ImportPage)
    assert page.imports[0].import_id == again.import_.import_id
    latest = given(list_latest.sync_detailed(client=client, n=1), models.LatestInteractions)
    assert latest.interactions[0].user_id == "f1"
    summary = summarize_interactions.sync_detailed(client=client, among=10, n=2)
    assert len(given(summary, models.InteractionSummary).users) == 2
    letters = given(list_dead_letters.sync_detailed(client=client), models.DeadLetterList)
    assert not letters.uses_kafka
    undone = given(undo_import.sync_detailed(number, client=client), models.ImportUndone)
    assert undone.interactions == 1


def ended(client: Client, import_id: int) -> models.Import:
    """Wait for an import to end, and return what is told of it."""
    while True:
        told = given(get_import.sync_detailed(import_id, client=client), models.ImportAnswer)
        if told.import_.status != models.ImportStatus.RUNNING:
            return told.import_
        time.sleep(0.05)


def describe(client: Client) -> None:
    """Add items, one and many, change, search, and delete them."""
    said = models.ItemContent(title="Film", categories=["a", "b"], available=False)
    made = given(put_item.sync_detailed("f/1", client=client, body=said), models.ItemAnswer).item
    assert (made.categories, made.available_now) == (["a", "b"], False)
    until = datetime.now(UTC) + timedelta(days=1)
    change = models.ItemContent(available=True, available_until=until)
    answer = patch_item.sync_detailed("f/1", client=client, body=change)
    assert given(answer, models.ItemAnswer).item.available_until == until
    rows = [models.ItemRow(item_id=number, title=f"Film {number}") for number in range(20)]
    stored = given(store_items.sync_detailed(client=client, body=rows), models.ItemsStored)
    assert stored.created == 20
    page = given(list_items.sync_detailed(client=client, q="film", limit=5), models.ItemPage)
    assert (len(page.items), page.next_) == (5, "12")
    given(get_item.sync_detailed("f/1", client=client), models.ItemAnswer)
    given(delete_item.sync_detailed("f/1", client=client), models.ItemDeleted)
    gone = given(get_item.sync_detailed("f/1", client=client), models.Error, 404)
    assert gone.code == "not_found"


def train(client: Client) -> None:
    """Make two versions, follow a job, and end others."""
    recipes = given(list_recipes.sync_detailed(client=client), models.RecipeList).recipes
    assert "svd" in {recipe.name for recipe in recipes}
    made = given(retrain.sync_detailed(client=client), models.RetrainAnswer)
    assert (made.version, made.details.n_users) == (1, 40)
    settings = models.RetrainRequestSettingsType0.from_dict({"n_components": 4})
    asked = models.RetrainRequest(recipe="svd", settings=settings)
    answer = retrain.sync_detailed(client=client, body=asked, wait=False)
    job = given(answer, models.JobAnswer, 202).job
    followed = follow_job.sync_detailed(job.job_id, client=client)
    assert "event: end" in given(followed, str)
    job = given(get_job.sync_detailed(job.job_id, client=client), models.JobAnswer).job
    assert (job.status, job.version) == (models.JobStatus.SUCCEEDED, 2)
    job = given(evaluate.sync_detailed(client=client, wait=False), models.JobAnswer, 202).job
    late = finish_job.sync_detailed(job.job_id, client=client)
    assert late.status_code in {200, 409}, late.content
    why = models.Explanation(reason="enough")
    cancelled = cancel_job.sync_detailed(job.job_id, client=client, body=why)
    assert cancelled.status_code in {200, 409}, cancelled.content
    given(follow_job.sync_detailed(job.job_id, client=client), str)
    page = given(list_jobs.sync_detailed(client=client, limit=2), models.JobPage)
    assert [listed.kind for listed in page.jobs] == ["evaluate", "retrain"]


def steer(client: Client) -> None:
    """Switch, pin, note, compare, hand on and delete versions."""
    listed = given(list_models.sync_detailed(client=client), models.ModelList).models
    active = next(model for model in listed if model.status == models.ModelStatus.ACTIVE)
    assert active.explained_variance.endswith("%")
    other = next(model.version for model in listed if model.version != active.version)
    given(activate_model.sync_detailed(other, client=client), models.ModelAnswer)
    timeline = given(list_timeline.sync_detailed(client=client), models.TimelinePage)
    assert timeline.rollback_version == active.version
    why = models.Explanation(reason="back")
    back = given(roll_back.sync_detailed(client=client, body=why), models.ModelAnswer)
    assert back.model.version == active.version
    until = datetime.now(UTC) + timedelta(days=1)
    pin = models.Pin(until=until)
    pinned = given(pin_model.sync_detailed(other, client=client, body=pin), models.ModelAnswer)
    assert isinstance(pinned.model.pinned_until, datetime)
    given(unpin_model.sync_detailed(other, client=client, reason="done"), models.ModelAnswer)
    note = models.ModelChange(note="seen by a generated client")
    given(update_model.sync_detailed(other, client=client, body=note), models.ModelAnswer)
    given(compare_models.sync_detailed(1, 2, client=client, k=5), models.Comparison)
    assert given(download_pickle.sync_detailed(other, client=client), File).payload.read()
    bundle = given(download_model.sync_detailed(other, client=client), File).payload.read()
    taken = given(
        import_model.sync_detailed(client=client, body=File(io.BytesIO(bundle))),
        models.ModelAnswer,
    )
    version = taken.model.version
    given(delete_model.sync_detailed(version, client=client), models.Deletion)
    gone = given(get_model.sync_detailed(version, client=client), models.Error, 404)
    assert gone.code == "not_found"
    model = given(get_model.sync_detailed(1, client=client), models.ModelAnswer).model
    assert model.files[0].bytes_ > 0


def look(client: Client) -> None:
    """Read and change what is left: policy, trail, answers, demo data, operation."""
    revision = given(get_policy.sync_detailed(client=client), models.PolicyAnswer)
    assert revision.policy.promotion.manual == models.PromotionManual.ALWAYS
    change = models.PolicyChange(margin=0.05)
    stored = given(set_policy.sync_detailed(client=client, body=change), models.PolicyAnswer)
    assert (stored.policy.margin, stored.revision) == (0.05, revision.revision + 1)
    given(list_policies.sync_detailed(client=client), models.PolicyHistory)
    given(list_audit_entries.sync_detailed(client=client), models.AuditPage)
    assert given(verify_audit.sync_detailed(client=client), models.AuditCheck).ok
    recommended = given(
        get_recommendations.sync_detailed("u1", client=client, n=3), models.RecommendationList
    )
    assert [item.rank for item in recommended.items] == [1, 2, 3]
    why = given(
        get_recommendations.sync_detailed("u1", client=client, explain=True, diversity=0.3),
        models.RecommendationList,
    ).items[0]
    assert isinstance(why.reasons, list)
    assert isinstance(why.rest, float)
    contributions = [reason.contribution for reason in why.reasons]
    assert abs(sum(contributions) + why.rest - why.score) < 1e-9
    like = find_similar_items.sync_detailed("1", client=client, n=3, exclude=["2"])
    assert given(like, models.SimilarItems).kind == models.SimilarItemsKind.ALIKE
    basket = models.SimilarRequest(item_ids=["1", 2], n=3)
    together = find_similar_to_several.sync_detailed(client=client, body=basket)
    assert given(together, models.SimilarToSeveral).item_ids == ["1", "2"]
    told = models.HistoryRequest(history=["1", 2], n=3)
    answer = recommend_from_history.sync_detailed(client=client, body=told)
    assert len(given(answer, models.HistoryRecommendations).items) == 3
    asked = models.BatchRequest(user_ids=["u1", "u2"], n=3)
    lists = given(
        recommend_to_users.sync_detailed(client=client, body=asked), models.BatchRecommendations
    ).lists
    assert [each.user_id for each in lists] == ["u1", "u2"]
    visitor = models.MergeRequest(from_="visitor")
    merged = merge_users.sync_detailed("u1", client=client, body=visitor)
    assert given(merged, models.Merge).interactions == 0
    own = export_user.sync_detailed("u1", client=client)
    assert given(own, models.PersonalData).merged_from == ["visitor"]
    erased = given(erase_user.sync_detailed("u1", client=client), models.ErasureAnswer).erasure
    told = get_erasure.sync_detailed(erased.erasure_id, client=client)
    assert given(told, models.ErasureAnswer).erasure.is_genuine
    assert given(list_erasures.sync_detailed(client=client), models.ErasurePage).erasures
    given(get_demo.sync_detailed(client=client), models.Demo)
    given(delete_demo.sync_detailed(client=client), models.DemoCleared)
    given(get_liveness.sync_detailed(client=client), models.Liveness)
    assert given(get_readiness.sync_detailed(client=client), models.Readiness).problems == []
    assert "reckeeper_served_version" in given(get_metrics.sync_detailed(client=client), str)


def let_in(client: Client) -> str:
    """Make the first key, which an administrator has, and return it."""
    asked = models.KeyRequest(name="generated", role=models.KeyRequestRole.ADMIN)
    return given(create_key.sync_detailed(client=client, body=asked), models.KeyMade).secret


def keep_out(client: Client) -> None:
    """Make a key, list and revoke it."""
    until = datetime.now(UTC) + timedelta(days=1)
    asked = models.KeyRequest(name="shop", role=models.KeyRequestRole.INGEST, expires_at=until)
    made = given(create_key.sync_detailed(client=client, body=asked), models.KeyMade)
    assert made.key.expires_at == until
    listed = given(list_keys.sync_detailed(client=client), models.KeyList).keys
    assert [key.name for key in listed] == ["shop", "generated"]
    gone = given(revoke_key.sync_detailed("shop", client=client), models.KeyAnswer).key
    assert gone.state == models.KeyState.REVOKED
    assert given(get_access.sync_detailed(client=client), models.Access).name == "generated"
    nobody = Client(base_url=sys.argv[1], token=made.secret)
    refused = given(list_keys.sync_detailed(client=nobody), models.Error, 401)
    assert refused.code == "unauthenticated"


def main() -> None:
    """Call everything, and say how much that was."""
    operations, called = recorded()
    with Client(base_url=sys.argv[1], token="none is needed") as client:
        key = let_in(client)
    with Client(base_url=sys.argv[1], token=key, timeout=httpx.Timeout(120)) as client:
        for part in (keep_out, send, take_in, describe, train, steer, look):
            part(client)
    assert called == operations, operations - called
    print(f"{len(called)} of {len(operations)} operations called, their answers of their types")


if __name__ == "__main__":
    main()
