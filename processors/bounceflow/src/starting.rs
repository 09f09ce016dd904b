//! Where a partition starts: at its committed offset, where the operator says, or at the beginning when nothing of it was ever
//! counted. Anything else is a halt that says what was lost and how to go on.

use rdkafka::Offset;
use rdkafka::error::KafkaError;

use crate::kafka::{Committed, Consumer};

/// A moment of every partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the first record the log holds.
    Beginning,
    /// At the end of the log.
    End,
    /// At the first record at or after this time, milliseconds since the epoch.
    Time(i64),
}

impl std::str::FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "beginning" => Ok(Self::Beginning),
            "end" => Ok(Self::End),
            _ => bounceflow_event::Millis::parse(text)
                .map(|t| Self::Time(t.0))
                .ok_or_else(|| format!("{text:?} is neither `beginning`, `end` nor a time such as 2026-09-21T13:00:00Z")),
        }
    }
}

/// Where the operator says to start partitions that have no usable committed offset (`run --from`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Right behind what was counted last.
    Counted,
    /// At a moment.
    From(From),
}

impl std::str::FromStr for Resume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "counted" {
            return Ok(Self::Counted);
        }
        text.parse()
            .map(Self::From)
            .map_err(|_| format!("{text:?} is neither `counted`, `beginning`, `end` nor a time such as 2026-09-21T13:00:00Z"))
    }
}

/// What was decided about one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Read on from this offset.
    At(i64),
    /// Wait for an operator: why, and how to go on.
    Halt(String),
}

/// Decides from where a partition was left, what the operator said, and how far it was counted before (none: never).
pub fn decide(left: &Committed, asked: Option<Asked>, counted_to: Option<i64>) -> Start {
    let place = format!("{}/{}", left.topic, left.partition);
    match (left.offset, asked) {
        (Some(offset), _) if offset >= left.low && offset <= left.high => Start::At(offset),
        (_, Some(Asked::Offset(offset))) => Start::At(offset),
        (Some(offset), _) if offset < left.low => Start::Halt(passed(&place, "the committed offset", offset, left.low)),
        (Some(offset), _) => Start::Halt(format!(
            "{place}: the committed offset {offset} is beyond the end of the log, {}: the topic was made anew. To count the new \
             one, restart once with --from beginning",
            left.high
        )),
        (None, asked) => match counted_to {
            None => Start::At(left.low),
            // Kafka forgets a group's offsets of a topic that is deleted.
            Some(last) if last >= left.high => Start::Halt(format!(
                "{place}: it was counted up to offset {last}, but its log ends at {}: the topic was deleted and created again. To \
                 count the new one too, restart once with --from beginning; `bounceflow audit` will list its offsets as repeated",
                left.high
            )),
            Some(last) if asked.is_none() => Start::Halt(format!(
                "{place}: no committed offset, but it was counted up to offset {last}: the group's offsets have expired, or the topic \
                 was deleted and created again. If they expired, restart once with --from counted, which goes on right behind that \
                 offset; if it is a new topic, with --from beginning"
            )),
            Some(last) if last + 1 < left.low => Start::Halt(passed(&place, "what was counted", last + 1, left.low)),
            Some(last) => Start::At(last + 1),
        },
    }
}

fn passed(place: &str, what: &str, offset: i64, low: i64) -> String {
    format!(
        "{place}: log retention has passed {what}: offsets {offset} to {} are lost. To go on behind the gap, restart once with --from \
         beginning; `bounceflow audit` will keep listing the gap",
        low - 1
    )
}

/// What the operator says of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To start here.
    Offset(i64),
    /// To go on behind what was counted.
    Counted,
}

/// What the operator says of this partition.
pub fn asked(resume: Resume, consumer: &Consumer, left: &Committed) -> Result<Asked, KafkaError> {
    match resume {
        Resume::Counted => Ok(Asked::Counted),
        Resume::From(from) => resolve(from, consumer, left).map(Asked::Offset),
    }
}

/// The offset that a moment means for a partition.
pub fn resolve(from: From, consumer: &Consumer, left: &Committed) -> Result<i64, KafkaError> {
    Ok(match from {
        From::Beginning => left.low,
        From::End => left.high,
        From::Time(time) => match consumer.offset_at(&left.topic, left.partition, time)? {
            Offset::Offset(offset) => offset,
            _ => left.high,
        },
    })
}

/// Whether [`decide`] has to know how far the partition was counted.
pub fn wants_counted(left: &Committed, asked: Option<Asked>) -> bool {
    left.offset.is_none() && !matches!(asked, Some(Asked::Offset(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(offset: Option<i64>, low: i64, high: i64) -> Committed {
        Committed { topic: "t".into(), partition: 0, offset, metadata: String::new(), low, high }
    }

    fn check(left: &Committed, from: Option<Asked>, counted_to: Option<i64>, expect: Result<i64, &str>) {
        match (decide(left, from, counted_to), expect) {
            (Start::At(at), Ok(expected)) => assert_eq!(at, expected),
            (Start::Halt(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (got, expected) => panic!("{got:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn committed_offsets_win_and_holes_halt() {
        check(&left(Some(7), 0, 10), None, None, Ok(7));
        check(&left(Some(7), 0, 10), Some(Asked::Offset(0)), Some(6), Ok(7));
        check(&left(Some(10), 0, 10), None, None, Ok(10));
        check(&left(Some(3), 5, 10), None, None, Err("offsets 3 to 4 are lost"));
        check(&left(Some(3), 5, 10), Some(Asked::Offset(5)), None, Ok(5));
        check(&left(Some(12), 0, 10), None, None, Err("beyond the end"));
        check(&left(None, 5, 10), None, None, Ok(5));
        check(&left(None, 5, 10), None, Some(8), Err("counted up to offset 8"));
        check(&left(None, 5, 10), Some(Asked::Offset(10)), Some(8), Ok(10));
        check(&left(None, 0, 8), None, Some(8), Err("log ends at 8: the topic was deleted and created again"));
        check(&left(None, 0, 0), None, Some(0), Err("log ends at 0: the topic was deleted"));
        check(&left(None, 0, 9), None, Some(8), Err("expired, or the topic was deleted"));
    }

    #[test]
    fn counted_goes_on_right_behind_what_was_counted() {
        let counted = Some(Asked::Counted);
        check(&left(None, 5, 10), counted, Some(8), Ok(9));
        check(&left(None, 5, 10), counted, Some(9), Ok(10));
        check(&left(None, 9, 10), counted, Some(8), Ok(9));
        check(&left(None, 5, 10), counted, None, Ok(5));
        check(&left(Some(7), 5, 10), counted, Some(8), Ok(7));
        check(&left(None, 9, 20), counted, Some(6), Err("passed what was counted: offsets 7 to 8 are lost"));
        check(&left(None, 0, 8), counted, Some(8), Err("deleted and created again"));
        check(&left(Some(3), 5, 10), counted, None, Err("passed the committed offset: offsets 3 to 4 are lost"));
    }
}
