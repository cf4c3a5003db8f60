"""With every strategy a run is a function of its settings and seed, and what is private stays with the clients."""

import pytest
from safetensors.torch import load_file

from fed_rebel.settings import STRATEGIES

SETTINGS = {
    "rounds.warm_start": 0,
    "rounds.distill": 1,
    "rounds.finetune": 2,
    "rounds.evaluate_every": 0,
    "strategy.weights": "sqrt",
    "partition.quantity": "log-normal",
}


@pytest.fixture(scope="module", params=STRATEGIES)
def run(request, federate, tiny_settings, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param) / "run"
    return federate(tiny_settings(SETTINGS | {"strategy.name": request.param}), place)


def test_the_order_of_replies_and_the_number_of_workers_change_no_byte(run, federate, tiny_settings, tmp_path, results):
    changes = {"strategy.name": run.settings.strategy.name, "engine.clients_at_once": 2}
    other = federate(tiny_settings(SETTINGS | changes), tmp_path / "run", shuffled=True)
    assert results(other.run) == results(run.run)


def test_nothing_that_a_client_sends_is_private(run):
    own = [load_file(path) for path in sorted((run.run.path / "private").iterdir())]
    private = [t for state in own for name, t in state.items() if name.startswith(("head1.", "early.", "code."))]
    contents = [message.content for message in run.messages if message.metadata.reply_to_message_id]
    replies = [content for content in contents if "reply" in content.metric_records]
    assert len(replies) == 3 * 7  # five rounds of training, two evaluations
    for content in replies:
        assert not content.config_records
        assert not content.metric_records["label_counts"]
        assert content.metric_records["reply"].keys() == {"client", "samples", "weight"}
        sent = {n: t for record in content.array_records.values() for n, t in record.to_torch_state_dict().items()}
        assert {name.split(".")[0] for name in sent} <= {"head2", "tail", "length"}
        assert not any(
            mine.shape == tensor.shape and mine.equal(tensor) for mine in private for tensor in sent.values()
        )
