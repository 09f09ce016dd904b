//! The generator: seed, scenario and start in, records and the truth about them out. No clock, no I/O: it can be run anywhere,
//! and the same options give the same bytes.
//!
//! The truth is what was decided before a record was written. It never comes from `classify` or `enrich`.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, ensure};
use bounceflow_event::EventType;
use bounceflow_event::avro::{DELIVERY_EVENT, WriterSchema};

use super::event::{Decision, Message, Shape, Texts, View};
use super::expected::{Counted, Expected, Label, Tally};
use super::formats;
use super::garbage::{self, Flaw};
use super::mix::{Dice, Threshold, id, mix, pick};
use super::replies::{Family, Kind, Replies};
use super::scenario::{self, Incident, Outcome};
use super::world::World;

/// A deferred message is tried again this many records later.
const RETRY_AFTER: u64 = 10_000;

/// How the records are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Wire {
    /// bounceflow's own JSON.
    #[default]
    Json,
    /// `DeliveryEvent` in Avro single-object encoding.
    Avro,
    /// `DeliveryEvent` in the Confluent wire format, under the id named by --schema-id.
    AvroConfluent,
    /// KumoMTA log records.
    Kumomta,
    /// JSON, Avro (single-object) and KumoMTA records in one topic.
    Mixed,
}

/// What decides every byte.
#[derive(Clone, Debug)]
pub struct Options {
    /// Another seed, other events.
    pub seed: u64,
    /// Event time of the first record, milliseconds since the epoch.
    pub start_ms: i64,
    /// From one record to the next.
    pub time_per_event: Duration,
    /// How the records are written.
    pub wire: Wire,
    /// Schema id of [`Wire::AvroConfluent`].
    pub schema_id: u32,
    /// Deferrals, bounces, late bounces and complaints among all events, 0 to 0.5.
    pub failures: f64,
    /// Records that cannot be read, among all, 0 to 1.
    pub garbage: f64,
    /// Text of a scenario file.
    pub scenario: Option<String>,
    /// Whether every item is labelled, see [`Generator::labels`].
    pub labels: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            start_ms: 1_790_000_000_000,
            time_per_event: Duration::from_micros(10),
            wire: Wire::Json,
            schema_id: 1,
            failures: 0.05,
            garbage: 0.001,
            scenario: None,
            labels: false,
        }
    }
}

/// One record made.
#[derive(Clone, Copy, Debug)]
pub struct Made<'a> {
    /// The id of the message, to be used as key.
    pub key: &'a str,
    /// Whether it cannot be read.
    pub garbage: bool,
}

/// Makes records one after the other.
pub struct Generator {
    options: Options,
    world: World,
    replies: Replies,
    incidents: Vec<Incident>,
    odds: Odds,
    schema: WriterSchema,
    dice: Dice,
    tally: Tally,
    labels: Vec<u8>,
    texts: Texts,
    json: String,
    /// Deferred messages with the record they are due at, in that order.
    pending: VecDeque<(u64, Message)>,
    records: u64,
    messages: u64,
    events: u64,
    time: i64,
}

impl Generator {
    /// Refuses shares out of range and scenarios with mistakes.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        ensure!((0.0..=0.5).contains(&options.failures), "failures is {}, must be between 0 and 0.5", options.failures);
        ensure!((0.0..=1.0).contains(&options.garbage), "garbage is {}, must be between 0 and 1", options.garbage);
        let world = World::load()?;
        let replies = Replies::load(&world.isps)?;
        let incidents = match &options.scenario {
            None => Vec::new(),
            Some(text) => scenario::parse(text, &world, &replies)?,
        };
        Ok(Self {
            incidents,
            odds: Odds::new(&options),
            schema: WriterSchema::parse(DELIVERY_EVENT).context("schemas/avro/DeliveryEvent.avsc")?,
            dice: Dice::new(options.seed),
            tally: Tally::new(world.isps.len(), world.identities.len(), replies.categories.len()),
            labels: Vec::new(),
            texts: Texts::default(),
            json: String::new(),
            pending: VecDeque::new(),
            records: 0,
            messages: 0,
            events: 0,
            time: options.start_ms,
            options,
            world,
            replies,
        })
    }

    /// Writes the next record into `out`, which it empties first.
    pub fn next(&mut self, out: &mut Vec<u8>) -> anyhow::Result<Made<'_>> {
        out.clear();
        self.labels.clear();
        let passed = u128::from(self.records) * self.options.time_per_event.as_nanos() / 1_000_000;
        self.time = self.options.start_ms.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX));
        let garbage = self.dice.hits(self.odds.garbage);
        if garbage {
            self.garbage(out)?;
        } else if self.options.wire == Wire::Mixed && self.dice.one_in(64) {
            self.json.clear();
            for n in 0..2 + self.dice.below(3) {
                self.json.push(if n == 0 { '[' } else { ',' });
                let decision = self.decide(Some(Shape::Json))?;
                self.write(&decision, out)?;
            }
            self.json.push(']');
            out.extend_from_slice(self.json.as_bytes());
        } else {
            self.json.clear();
            let decision = self.decide(None)?;
            self.write(&decision, out)?;
            out.extend_from_slice(self.json.as_bytes());
        }
        self.records += 1;
        Ok(Made { key: &self.texts.message_id, garbage })
    }

    /// Records made so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The truth about each item of the last record that counts, as JSON lines.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// Event time of the last record, milliseconds since the epoch.
    pub fn time_ms(&self) -> i64 {
        self.time
    }

    /// What was made so far.
    pub fn expected(&self) -> Expected {
        let identities: Vec<&str> = self.world.identities.iter().map(|i| i.domain.as_str()).collect();
        self.tally.expected(self.options.seed, self.records, &self.world.isps, &identities, &self.replies.categories)
    }

    /// Decides what happens next, and counts it. A given shape makes a new message of it.
    fn decide(&mut self, shape: Option<Shape>) -> anyhow::Result<Decision> {
        let due = self.pending.front().is_some_and(|(due, _)| shape.is_none() && *due <= self.records);
        let mut message = match if due { self.pending.pop_front() } else { None } {
            Some((_, message)) => Message { attempt: message.attempt.saturating_add(1), ..message },
            None => self.new_message(shape),
        };
        let retry = message.attempt > 1;
        let family = if message.shape == Shape::Kumomta { Family::Kumomta } else { Family::Esp };
        let incident = self.incident(&message, family);
        let throw = self.dice.throw();
        let odds = if retry { &self.odds.retry } else { &self.odds.first };
        let fate = incident.unwrap_or_else(|| odds.fate(throw));
        let isp = self.world.domains[usize::from(message.domain)].isp;

        let mut reply = match fate {
            Fate::Said(reply) => Some(reply),
            Fate::Deferral if family == Family::Kumomta && self.dice.one_in(16) => draw(&mut self.dice, &self.replies.local[1]),
            Fate::Deferral => draw(&mut self.dice, self.replies.list(isp, family, Kind::Deferral)),
            Fate::Hard | Fate::Soft if message.attempt > 2 => draw(&mut self.dice, &self.replies.expired[family as usize]),
            Fate::Hard if family == Family::Esp && !retry && self.dice.one_in(16) => {
                message.domain = self.world.typos[self.dice.below(self.world.typos.len())];
                draw(&mut self.dice, &self.replies.typo_domain[family as usize])
            }
            Fate::Hard => draw(&mut self.dice, self.replies.list(isp, family, Kind::Hard)),
            Fate::Soft => draw(&mut self.dice, self.replies.list(isp, family, Kind::Soft)),
            Fate::Late => draw(&mut self.dice, self.replies.list(isp, family, Kind::Late)),
            Fate::Drop => draw(&mut self.dice, &self.replies.drops[family as usize]),
            Fate::Delivery | Fate::Complaint => None,
        };
        let event = match (fate, reply) {
            (Fate::Late, _) => EventType::OobBounce,
            (Fate::Complaint, _) => EventType::Complaint,
            (_, Some(reply)) => self.replies.get(reply).event,
            (_, None) => EventType::Delivery,
        };
        match event {
            // What happened to an attempt hours or days ago.
            EventType::OobBounce | EventType::Complaint => {
                if event == EventType::Complaint && !self.world.domains[usize::from(message.domain)].feedback_loop {
                    message.domain = self.world.complaining[self.dice.below(self.world.complaining.len())];
                    message.mx = 0;
                }
                message.attempt = 0;
                message.sent_at = self.time - 60_000 - (self.dice.below(36 * 3_600_000)) as i64;
            }
            EventType::Drop => message.attempt = 0,
            EventType::Deferral => self.pending.push_back((self.records + RETRY_AFTER, message)),
            EventType::Delivery | EventType::Bounce => {}
        }
        let by_sender = reply.is_some_and(|r| self.replies.get(r).by_sender);
        let reception = event == EventType::Delivery && message.shape == Shape::Kumomta && !retry && self.dice.one_in(10);
        if reception {
            reply = None;
        }
        let several = message.shape == Shape::Kumomta && event != EventType::OobBounce && event != EventType::Complaint;
        let recipients = if several && self.dice.one_in(16) { 2 + self.dice.below(3) as u8 } else { 1 };
        self.events += 1;
        let decision = Decision {
            event,
            message,
            reply,
            time: self.time,
            event_id: id(self.options.seed ^ 0xe7e7, self.events),
            recipients,
            mx_known: !by_sender && event != EventType::Complaint,
            reception,
        };
        self.count(&decision)?;
        Ok(decision)
    }

    fn new_message(&mut self, shape: Option<Shape>) -> Message {
        self.messages += 1;
        let (place, kind) = (self.dice.bits(), self.dice.bits());
        let domain = self.world.domain_slots[(place & 0xffff) as usize];
        let identity = self.world.identity_slots[(place >> 16 & 0xff) as usize];
        let sender = &self.world.identities[usize::from(identity)];
        let byte = |n: u32| (place >> (24 + 8 * n)) & 0xff;
        let pool = pick(byte(0), 8, sender.pools.len());
        let shape = shape.unwrap_or(match (self.options.wire, kind & 0xff) {
            (Wire::Json, _) | (Wire::Mixed, 0..115) => Shape::Json,
            (Wire::Avro | Wire::AvroConfluent, _) | (Wire::Mixed, 115..218) => Shape::Avro,
            (Wire::Kumomta | Wire::Mixed, _) => Shape::Kumomta,
        });
        Message {
            id: id(self.options.seed ^ 0x3e55, self.messages),
            sent_at: self.time - 40 - (kind >> 8 & 0xfff) as i64,
            domain,
            identity,
            mx: pick(byte(1), 8, self.world.domains[usize::from(domain)].mx.len()) as u8,
            pool: pool as u8,
            ip: pick(byte(2), 8, sender.pools[pool].ips.len()) as u8,
            campaign: pick(byte(3), 8, sender.campaigns.len()) as u8,
            shape,
            attempt: 1,
        }
    }

    /// The first incident that strikes this attempt decides.
    fn incident(&mut self, message: &Message, family: Family) -> Option<Fate> {
        let offset = self.time - self.options.start_ms;
        let domain = &self.world.domains[usize::from(message.domain)];
        for incident in self.incidents.iter().filter(|i| i.covers(offset, message.identity)) {
            match &incident.outcome {
                Outcome::Complaint(isp) => {
                    let mine = domain.feedback_loop && isp.is_none_or(|only| only == domain.isp);
                    if mine && self.dice.hits(incident.share) {
                        return Some(Fate::Complaint);
                    }
                }
                Outcome::Replies(table) => {
                    let list = &table[usize::from(domain.isp)][family as usize];
                    if !list.is_empty() && self.dice.hits(incident.share) {
                        return draw(&mut self.dice, list).map(Fate::Said);
                    }
                }
            }
        }
        None
    }

    fn count(&mut self, decision: &Decision) -> anyhow::Result<()> {
        if decision.reception {
            self.tally.ignore();
            return Ok(());
        }
        let message = &decision.message;
        let domain = &self.world.domains[usize::from(message.domain)];
        let reply = decision.reply.map(|r| self.replies.get(r));
        let local = reply.is_some_and(|r| r.role == super::replies::Role::Local);
        let counted = Counted {
            event: decision.event,
            severity: reply.and_then(|r| r.severity),
            category: reply.and_then(|r| r.category),
            isp: match (local, decision.mx_known) {
                (true, _) => self.world.local,
                (false, true) => domain.isp,
                (false, false) => domain.isp_by_domain,
            },
            identity: message.identity,
            first_attempt: message.attempt == 1,
            recipients: u64::from(decision.recipients),
        };
        self.tally.count(&counted);
        if self.options.labels {
            let sender = &self.world.identities[usize::from(message.identity)];
            let label = Label {
                time_ms: decision.time,
                event: counted.event.as_str(),
                severity: counted.severity.map_or("", |severity| severity.as_str()),
                category: counted.category.map_or("", |category| self.replies.categories[usize::from(category)].as_str()),
                isp: &self.world.isps[usize::from(counted.isp)],
                identity: &sender.domain,
                sending_ip: &sender.pools[usize::from(message.pool)].ips[usize::from(message.ip)],
                // KumoMTA's record of a complaint is of the report, which knows no campaign.
                campaign: match (decision.event, message.shape) {
                    (EventType::Complaint, Shape::Kumomta) => "",
                    _ => &sender.campaigns[usize::from(message.campaign)],
                },
                recipient_domain: &domain.name,
                attempt: message.attempt,
                recipients: decision.recipients,
            };
            serde_json::to_writer(&mut self.labels, &label)?;
            self.labels.push(b'\n');
        }
        Ok(())
    }

    /// JSON goes to `self.json`, the rest to `out`.
    fn write(&mut self, decision: &Decision, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let view = View::new(decision, &self.world, &self.replies, &mut self.texts);
        match decision.message.shape {
            Shape::Json => formats::json(&view, &mut self.json),
            Shape::Kumomta => formats::kumomta(&view, &mut self.json),
            Shape::Avro => {
                let schema_id = (self.options.wire == Wire::AvroConfluent).then_some(self.options.schema_id);
                formats::avro(&view, &self.schema, schema_id, out)?;
            }
        }
        Ok(())
    }

    fn garbage(&mut self, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let flaws: &[Flaw] = match self.options.wire {
            Wire::Json => garbage::JSON,
            Wire::Avro | Wire::AvroConfluent => garbage::AVRO,
            Wire::Kumomta => garbage::KUMOMTA,
            Wire::Mixed => [garbage::JSON, garbage::AVRO, garbage::KUMOMTA][self.dice.below(3)],
        };
        let flaw = flaws[self.dice.below(flaws.len())];
        self.events += 1;
        let unique = mix(id(self.options.seed ^ 0x9a5b, self.events));
        let schema_id = (self.options.wire == Wire::AvroConfluent).then_some(self.options.schema_id);
        garbage::write(flaw, unique, self.time, (&self.schema, schema_id), &mut self.dice, out)?;
        self.tally.reject(out);
        self.texts.message_id.clear();
        super::event::push_hex(&mut self.texts.message_id, unique, 16);
        Ok(())
    }
}

fn draw(dice: &mut Dice, list: &[u16]) -> Option<u16> {
    if list.is_empty() { None } else { Some(list[dice.below(list.len())]) }
}

/// What happens to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Delivery,
    Deferral,
    Hard,
    Soft,
    Late,
    Complaint,
    Drop,
    Said(u16),
}

/// Probabilities, each entry holding the sum up to it.
struct Fates(Vec<(Threshold, Fate)>);

impl Fates {
    fn new(parts: &[(f64, Fate)]) -> Self {
        let mut sum = 0.0;
        let mut upto = |part: f64| {
            sum += part.max(0.0);
            Threshold::new(sum)
        };
        Self(parts.iter().map(|(part, fate)| (upto(*part), *fate)).collect())
    }

    fn fate(&self, throw: u64) -> Fate {
        self.0.iter().find(|(threshold, _)| throw < threshold.0).map_or(Fate::Delivery, |(_, fate)| *fate)
    }
}

struct Odds {
    garbage: Threshold,
    first: Fates,
    retry: Fates,
}

impl Odds {
    /// Of the failures, half are deferrals, and each of them brings one retry, of which a quarter is deferred again. What is left
    /// for first attempts makes the whole come out as asked for.
    fn new(options: &Options) -> Self {
        let failures = options.failures;
        let deferred = 0.5 * failures;
        // Without failures nothing fails but by incidents.
        let (again, given_up) = if failures > 0.0 { (0.25, 0.05) } else { (0.0, 0.0) };
        let first = |whole: f64, by_retries: f64| (whole - by_retries) / (1.0 - deferred);
        Self {
            garbage: Threshold::new(options.garbage),
            first: Fates::new(&[
                (first(deferred, again * deferred), Fate::Deferral),
                (first(0.18 * failures, 0.0), Fate::Hard),
                (first(0.22 * failures, given_up * deferred), Fate::Soft),
                (first(0.04 * failures, 0.0), Fate::Late),
                (first(0.06 * failures, 0.0), Fate::Complaint),
                (first(0.08 * failures, 0.0), Fate::Drop),
            ]),
            retry: Fates::new(&[(again, Fate::Deferral), (given_up, Fate::Soft)]),
        }
    }
}
