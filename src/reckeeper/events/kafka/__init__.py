"""Interactions through Kafka: onto the topic, into the table, and what was refused."""

from reckeeper.errors import ConfigError

try:
    import confluent_kafka as _confluent_kafka  # noqa: F401
except ModuleNotFoundError as exc:
    raise ConfigError(
        "Kafka, which KAFKA_BOOTSTRAP_SERVERS names, needs an extra: pip install "
        "'reckeeper[kafka]'."
    ) from exc

from reckeeper.events.kafka.consumer import KafkaReader
from reckeeper.events.kafka.producer import KafkaWriter

__all__ = ["KafkaReader", "KafkaWriter"]
