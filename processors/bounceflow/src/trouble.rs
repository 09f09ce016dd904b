//! Why a turn of a loop did not end well, how far that can be mended, and how a producer is got again. The same for every loop.

use bounceflow_event::avro::AvroError;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::health::Loop;
use crate::kafka::{Producer, TRANSACTION_TIMEOUT_MS, TransactionError};
use crate::schemas;
use crate::stop::Stop;

/// Somebody else goes by the same id, or Kafka took it for dead. What it had under way was not committed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{id} was taken over ({why}): by another process with this `ordinal` (give each of a role its own), or by Kafka, as it does with a \
     transaction that stands still for {TRANSACTION_TIMEOUT_MS} ms while a process sleeps or a broker is lost. Nothing is lost; if nobody \
     else runs under this id, start it again"
)]
pub struct Fenced {
    id: String,
    why: KafkaError,
}

/// Why a turn did not end well.
pub enum Trouble {
    /// A transaction failed: what it was to settle is read again.
    Transaction(TransactionError),
    /// Something outside failed: start again from the committed offsets.
    StartAgain(String),
    /// The process must end. Nothing is lost.
    End(anyhow::Error),
}

impl From<TransactionError> for Trouble {
    fn from(e: TransactionError) -> Self {
        match e {
            TransactionError::Fatal(e) if cannot_be_made(&e) => Self::from(e),
            e => Self::Transaction(e),
        }
    }
}

impl From<KafkaError> for Trouble {
    fn from(e: KafkaError) -> Self {
        match e {
            // The value may be a secret.
            KafkaError::ClientConfig(_, _, property, _) => {
                Self::End(anyhow::anyhow!("Kafka's client does not take the value of `{property}`"))
            }
            e if cannot_be_made(&e) => Self::End(e.into()),
            e => Self::StartAgain(e.to_string()),
        }
    }
}

/// A client that cannot be made, for a property or for a file that one names: the next try would find the same.
fn cannot_be_made(error: &KafkaError) -> bool {
    matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_))
}

impl From<bounceflow_warehouse::WarehouseError> for Trouble {
    fn from(e: bounceflow_warehouse::WarehouseError) -> Self {
        Self::StartAgain(e.to_string())
    }
}

impl From<anyhow::Error> for Trouble {
    fn from(e: anyhow::Error) -> Self {
        Self::StartAgain(format!("{e:#}"))
    }
}

/// What cannot be encoded is a mistake of this program: better to end than to leave a hole.
impl From<AvroError> for Trouble {
    fn from(e: AvroError) -> Self {
        Self::End(e.into())
    }
}

/// Takes the transactional id over and leaves the schemas of what is written. None: told to stop before.
pub fn take_over(config: &Config, id: &str, stop: &Stop, health: &Arc<Loop>) -> anyhow::Result<Option<Producer>> {
    while !stop.is_set() {
        let trouble = match Producer::take_over(&config.kafka, id, stop, health) {
            Ok(None) => return Ok(None),
            Ok(Some(producer)) => match schemas::publish(&producer, &config.topics.schemas)? {
                Ok(()) => return Ok(Some(producer)),
                Err(e) => e,
            },
            Err(e) => e,
        };
        Trouble::from(trouble).cure(id)?;
        stop.wait(Duration::from_secs(1));
    }
    Ok(None)
}

/// What a loop does about trouble.
pub enum Cure {
    /// Abort what is open, then start again from the committed offsets.
    StartAgain,
    /// The same, with a new producer.
    NewProducer,
}

impl Trouble {
    /// What a consumer that is of no more use said.
    pub fn of_consumer(id: &str, why: KafkaError) -> Self {
        let fenced = matches!(why, KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::FencedInstanceId));
        Self::End(if fenced { Fenced { id: format!("group.instance.id {id}"), why }.into() } else { why.into() })
    }

    /// Says in the log what happened, and what to do; an error where the process must end.
    pub fn cure(self, transactional_id: &str) -> anyhow::Result<Cure> {
        match self {
            Self::End(e) => Err(e),
            Self::Transaction(TransactionError::Fenced(why)) => {
                Err(Fenced { id: format!("transactional.id {transactional_id}"), why }.into())
            }
            Self::Transaction(TransactionError::Refused(refused)) => Err(refused.into()),
            Self::Transaction(TransactionError::Fatal(error)) => {
                tracing::warn!(transactional_id, %error, "The producer is of no more use; making a new one");
                Ok(Cure::NewProducer)
            }
            Self::Transaction(TransactionError::Aborted(error)) => {
                tracing::warn!(transactional_id, %error, "A transaction failed; what it was to settle is read again");
                Ok(Cure::StartAgain)
            }
            Self::StartAgain(why) => {
                tracing::warn!(transactional_id, why, "Starting again from the committed offsets");
                Ok(Cure::StartAgain)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_cannot_be_made_is_not_tried_again() {
        let creation = || KafkaError::ClientCreation("ssl.ca.location failed".to_owned());
        assert!(matches!(Trouble::from(creation()), Trouble::End(_)));
        assert!(matches!(Trouble::from(TransactionError::Fatal(creation())), Trouble::End(_)));
        let other = || KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure);
        assert!(matches!(Trouble::from(other()), Trouble::StartAgain(_)));
        assert!(matches!(Trouble::from(TransactionError::Fatal(other())), Trouble::Transaction(_)));
    }
}
