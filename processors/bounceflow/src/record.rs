//! One record to the outcomes of its items: which of them count, and which are refused. The same for `classify` and for a replay.
//!
//! Pure but for looking at the record's headers: what is counted and written is the loop's business.

use bounceflow_event::{Decoder, Format, Item, RejectReason, Rejection};
use rdkafka::Message;
use rdkafka::message::BorrowedMessage;

use crate::dead_letter::Resent;
use crate::process::{Outcome, Position, Scratch, Tables, process};

/// A record, settled.
pub struct Settled<'a> {
    /// Where it stands, with the Kafka time it first had.
    pub position: Position<'a>,
    /// Items that are settled now: all, unless the record was sent again for some of them.
    pub items: i32,
    /// Of these the refused ones: their numbers, and why.
    pub refused: Vec<(i32, Rejection)>,
    /// Items of it that are counted, now or when it first came.
    pub others: i32,
    /// How often it had been sent again.
    pub times: u32,
}

/// Hands the outcome of each item that counts now to `each`, except the refused ones: these are returned.
pub fn settle<'a>(
    tables: &Tables,
    decoder: &Decoder,
    scratch: &mut Scratch,
    topic: &'a str,
    message: &BorrowedMessage<'_>,
    mut each: impl FnMut(i32, Outcome<'_>),
) -> Settled<'a> {
    let resent = Resent::of(message);
    let position = position(topic, message, resent.as_ref());
    let (mut number, mut passed, mut refused, mut unreadable) = (0, 0, Vec::new(), None);
    decoder.decode(message.payload(), &mut |item| {
        if resent.as_ref().is_some_and(|resent| !resent.wants(number)) {
            // It was settled when the record first came.
            if let Item::Rejected(rejection) = item {
                unreadable = Some(rejection);
            }
            passed += 1;
        } else {
            match process(tables, scratch, position, number, &item) {
                Outcome::Reject(rejection) => refused.push((number, rejection)),
                outcome => each(number, outcome),
            }
        }
        number += 1;
    });
    let mut items = number - passed;
    if let Some(resent) = &resent {
        // It was to be counted, and the record does not have it (any more): refused once more, not lost.
        let whole = unreadable.filter(|_| number == 1);
        for missing in resent.missing(number) {
            refused.push((missing, whole.clone().unwrap_or_else(|| no_such_item(missing))));
            items += 1;
        }
    }
    for (_, rejection) in refused.iter_mut().filter(|(_, r)| r.format == Format::Auto) {
        rejection.format = decoder.format_of(message.payload().unwrap_or_default());
    }
    let Resent { others, times, .. } = resent.unwrap_or_default();
    Settled { position, items, others: others + items - refused.len() as i32, refused, times }
}

/// Settles a record unread, because this program panicked over it: it is one refused item, or those it was sent again for.
pub fn set_aside<'a>(topic: &'a str, message: &BorrowedMessage<'_>) -> Settled<'a> {
    let resent = Resent::of(message);
    let position = position(topic, message, resent.as_ref());
    let Resent { items, others, times, .. } = resent.unwrap_or_default();
    let detail = "bounceflow panicked over this record: please report it; the log says where".to_owned();
    let why = Rejection { reason: RejectReason::InternalError, detail, format: Format::Auto };
    let refused: Vec<_> = items.unwrap_or_else(|| vec![0]).into_iter().map(|number| (number, why.clone())).collect();
    Settled { position, items: refused.len() as i32, refused, others, times }
}

fn position<'a>(topic: &'a str, message: &BorrowedMessage<'_>, resent: Option<&Resent>) -> Position<'a> {
    let timestamp = resent.and_then(|resent| resent.timestamp).or(message.timestamp().to_millis());
    Position { topic, partition: message.partition(), offset: message.offset(), timestamp }
}

fn no_such_item(number: i32) -> Rejection {
    let detail = format!("it was sent again for its item {number}, which it does not have");
    Rejection { reason: RejectReason::InvalidField, detail, format: Format::Auto }
}
