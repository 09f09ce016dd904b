//! One rule: as written in TOML, and as checked and compiled. Owns what a rule may say; how rules are found is `rules`'s.

use std::sync::Arc;

use bounceflow_event::{Action, Category, EventType, RootCause, Severity};
use regex::Regex;
use serde::Deserialize;
use toml::Spanned;

use crate::codes::{EnhancedPattern, ReplyPattern};
use crate::command::Command;
use crate::reading::Reading;
use crate::{Reply, Verdict, provider};

/// Why a file of rules was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {reason}")]
pub struct RulesError {
    /// The file's name as given.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// What holds for every rule of a file that does not say otherwise.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Defaults {
    priority: Option<u16>,
    source: Option<String>,
    #[serde(default)]
    provider: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRule {
    pub(crate) id: Spanned<String>,
    priority: Option<u16>,
    provider: Option<Vec<String>>,
    #[serde(default)]
    reply: Vec<String>,
    #[serde(default)]
    enhanced: Vec<String>,
    #[serde(default)]
    command: Vec<Command>,
    #[serde(default)]
    event: Vec<EventType>,
    greeting: Option<bool>,
    #[serde(default)]
    any: Vec<String>,
    #[serde(default)]
    all: Vec<String>,
    #[serde(default)]
    none: Vec<String>,
    regex: Option<String>,
    category: Category,
    severity: Option<Outcome>,
    blocked: Option<bool>,
    root_cause: Option<RootCause>,
    action: Option<Action>,
    #[serde(default)]
    examples: Vec<RawExample>,
    source: Option<String>,
    /// For the reader of the file only: why the rule is as it is.
    #[serde(default, rename = "note")]
    _note: Option<String>,
}

/// What a rule says of severity; the event and the code's class decide the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// Hard, whatever the code's class.
    Hard,
    /// Hard, unless the code is a 4xx.
    ByCode,
    /// Soft; deferred where the code is a 4xx.
    Soft,
    /// Transient, also where the code is a 5xx.
    Deferred,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawExample {
    Text(String),
    Whole(Example),
}

/// A reply a rule must decide.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Example {
    /// The diagnostic.
    pub text: String,
    /// The reply code, if not in the text.
    pub reply: u16,
    /// The enhanced code, if not in the text.
    pub enhanced: String,
    /// The SMTP command.
    pub command: String,
    /// The provider's id.
    pub isp: String,
    /// The host that answered.
    pub mx: String,
    /// What the sender reported.
    pub event: Option<EventType>,
}

impl Example {
    /// The reply it stands for.
    pub fn reply(&self) -> Reply<'_> {
        Reply {
            event: self.event,
            reply_code: self.reply,
            enhanced_code: &self.enhanced,
            diagnostic: &self.text,
            command: &self.command,
            isp: &self.isp,
            mx_host: &self.mx,
            recipient_domain: "",
        }
    }
}

/// A phrase of a rule: `user unknown` stands between word ends, `greylist*` and `*overquota` are open on one side.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Phrase {
    pub(crate) text: String,
    pub(crate) open_left: bool,
    pub(crate) open_right: bool,
}

impl Phrase {
    fn parse(written: &str) -> Result<Self, String> {
        let open_left = written.starts_with('*');
        let open_right = written.ends_with('*');
        let text = written.trim_matches('*').to_owned();
        if text.chars().count() < 2 {
            return Err(format!("phrase {written:?} is too short"));
        }
        if text != text.to_lowercase() {
            return Err(format!("phrase {written:?} must be in lower case, as the text is"));
        }
        // What the masking would change can never be found in masked text, be it among words or in a URL.
        let mut reading = Reading::new();
        let mut survives = |context: String| {
            reading.read(&Reply { diagnostic: &context, ..Reply::default() });
            reading.body().contains(text.trim())
        };
        if !text.contains('<') && !survives(format!("zz {text} zz")) && !survives(format!("https://zz.example/{text}")) {
            return Err(format!("phrase {written:?} can never match: masked, it reads otherwise"));
        }
        Ok(Self { text, open_left, open_right })
    }

    /// Does a match at `start..end` of `body` stand where the phrase may?
    pub(crate) fn fits(&self, body: &[u8], start: usize, end: usize) -> bool {
        let word = |i: usize| body.get(i).is_some_and(u8::is_ascii_alphanumeric);
        (self.open_left || start == 0 || !(word(start) && word(start - 1))) && (self.open_right || !(word(end - 1) && word(end)))
    }
}

/// A rule, checked and compiled.
#[derive(Debug)]
pub struct Rule {
    id: Arc<str>,
    priority: u16,
    source: String,
    file: Arc<str>,
    line: usize,
    examples: Vec<Example>,
    pub(crate) providers: Vec<Box<str>>,
    pub(crate) reply: Vec<ReplyPattern>,
    pub(crate) enhanced: Vec<EnhancedPattern>,
    pub(crate) command: Vec<Command>,
    pub(crate) event: Vec<EventType>,
    pub(crate) greeting: Option<bool>,
    pub(crate) any: Vec<Phrase>,
    pub(crate) all: Vec<Phrase>,
    pub(crate) none: Vec<Phrase>,
    pub(crate) regex: Option<Regex>,
    outcome: Outcome,
    /// By severity: hard, soft, deferred.
    verdicts: [Verdict; 3],
}

impl Rule {
    /// The stable id, `gmail.no_such_user`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Among the rules that match the highest wins; among equals the first id.
    pub fn priority(&self) -> u16 {
        self.priority
    }

    /// The evidence: who documents or shows this reply.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Replies this rule must decide.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// File and line it was read from.
    pub fn place(&self) -> (&str, usize) {
        (&self.file, self.line)
    }

    /// The providers it is for, as ids of the provider tables and of families; empty: for all.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        self.providers.iter().map(|p| &**p)
    }

    /// The category it gives.
    pub fn category(&self) -> &Category {
        &self.verdicts[0].category
    }

    /// Who must act on what it decides.
    pub fn root_cause(&self) -> RootCause {
        self.verdicts[0].root_cause
    }

    /// What they do.
    pub fn action(&self) -> Action {
        self.verdicts[0].action
    }

    pub(crate) fn compile(raw: RawRule, defaults: &Defaults, file: &Arc<str>, line: usize) -> Result<Self, RulesError> {
        let id: Arc<str> = raw.id.into_inner().into();
        let refuse = |reason: String| RulesError { file: file.to_string(), line, reason: format!("rule {id:?}: {reason}") };
        let word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !id.split('.').all(word) || !id.contains('.') {
            return Err(refuse("an id is words of a-z, 0-9 and _ joined by dots".into()));
        }
        let Some(priority) = raw.priority.or(defaults.priority) else { return Err(refuse("has no priority".into())) };
        let phrases = |list: Vec<String>| list.iter().map(|p| Phrase::parse(p)).collect::<Result<Vec<_>, _>>().map_err(refuse);
        let (any, all, none) = (phrases(raw.any)?, phrases(raw.all)?, phrases(raw.none)?);
        if raw.regex.is_some() && any.is_empty() && all.is_empty() {
            return Err(refuse("a regex needs a phrase beside it, so that it is tried only where it may match".into()));
        }
        let regex = raw.regex.map(|r| Regex::new(&r)).transpose().map_err(|e| refuse(e.to_string()))?;
        let reply = raw.reply.iter().map(|p| ReplyPattern::parse(p).ok_or_else(|| refuse(format!("reply {p:?} is no code"))));
        let enhanced =
            raw.enhanced.iter().map(|p| EnhancedPattern::parse(p).ok_or_else(|| refuse(format!("enhanced {p:?} is no code"))));
        let (reply, enhanced) = (reply.collect::<Result<_, _>>()?, enhanced.collect::<Result<_, _>>()?);
        let provider = raw.provider.unwrap_or_else(|| defaults.provider.clone());
        let outcome = raw.severity.or_else(|| default_outcome(&raw.category));
        let root_cause = raw.root_cause.or_else(|| default_cause(&raw.category));
        let blocked = raw.blocked.or_else(|| default_blocked(&raw.category));
        let (Some(outcome), Some(root_cause), Some(blocked)) = (outcome, root_cause, blocked) else {
            let name = &raw.category;
            return Err(refuse(format!("category {name} is your own: say severity, root_cause and blocked")));
        };
        let action = raw.action.or_else(|| default_action(&raw.category)).unwrap_or(root_cause.default_action());
        let verdict =
            |severity| Verdict { severity, category: raw.category.clone(), blocked, root_cause, action, rule: Arc::clone(&id) };
        let verdicts = [verdict(Severity::Hard), verdict(Severity::Soft), verdict(Severity::Deferred)];
        let mut examples: Vec<Example> = raw.examples.into_iter().map(RawExample::whole).collect();
        for example in &mut examples {
            // An example of a provider's rule comes from that provider unless it says otherwise.
            if example.isp.is_empty() && example.mx.is_empty() {
                example.isp = provider.first().cloned().unwrap_or_default();
            }
        }
        Ok(Self {
            priority,
            source: raw.source.or_else(|| defaults.source.clone()).unwrap_or_default(),
            file: Arc::clone(file),
            line,
            examples,
            providers: provider.iter().flat_map(|p| provider::members(p)).collect(),
            reply,
            enhanced,
            command: raw.command,
            event: raw.event,
            greeting: raw.greeting,
            any,
            all,
            none,
            regex,
            outcome,
            verdicts,
            id,
        })
    }

    /// Everything but the phrases.
    pub(crate) fn allows(&self, reading: &Reading) -> bool {
        (self.reply.is_empty() || self.reply.iter().any(|p| p.matches(reading.reply_code())))
            && (self.enhanced.is_empty() || reading.enhanced_code().is_some_and(|c| self.enhanced.iter().any(|p| p.matches(c))))
            && (self.command.is_empty() || self.command.contains(&reading.command()))
            && (self.event.is_empty() || reading.event().is_some_and(|e| self.event.contains(&e)))
            && self.greeting.is_none_or(|g| g == reading.greeting())
            && (self.providers.is_empty() || self.providers.iter().any(|p| **p == *reading.provider()))
            && self.regex.as_ref().is_none_or(|r| r.is_match(reading.body()))
    }

    /// The verdict where the rule wins. Event first: a deferral is being retried whatever the text says, a bounce is not.
    pub(crate) fn verdict(&self, reading: &Reading) -> &Verdict {
        let [hard, soft, deferred] = &self.verdicts;
        let transient = reading.class() == 4;
        let last = matches!(reading.event(), Some(EventType::Bounce | EventType::OobBounce));
        if reading.event() == Some(EventType::Deferral) {
            return deferred;
        }
        match self.outcome {
            Outcome::Hard => hard,
            Outcome::ByCode if !transient => hard,
            Outcome::Soft if !transient => soft,
            _ if last => soft,
            _ => deferred,
        }
    }

    /// What of the rule's conditions was found, in words; the phrases are given.
    pub(crate) fn reasons(&self, reading: &Reading, found: Vec<String>) -> Vec<String> {
        let mut said = found;
        if !self.providers.is_empty() {
            said.push(format!("provider {}", reading.provider()));
        }
        if !self.reply.is_empty() {
            said.push(format!("reply code {}", reading.reply_code()));
        }
        if let (false, Some(code)) = (self.enhanced.is_empty(), reading.enhanced_code()) {
            said.push(format!("enhanced code {code}"));
        }
        if !self.command.is_empty() {
            said.push(format!("command {}", reading.command().as_str()));
        }
        if let (false, Some(event)) = (self.event.is_empty(), reading.event()) {
            said.push(format!("event {}", event.as_str()));
        }
        if self.greeting.is_some() {
            said.push(if reading.greeting() { "instead of a greeting".into() } else { "after the greeting".into() });
        }
        if let Some(found) = self.regex.as_ref().and_then(|r| r.find(reading.body())) {
            said.push(format!("text {:?}", found.as_str()));
        }
        said
    }
}

impl RawExample {
    fn whole(self) -> Example {
        match self {
            Self::Text(text) => Example { text, ..Example::default() },
            Self::Whole(example) => example,
        }
    }
}

fn default_outcome(category: &Category) -> Option<Outcome> {
    Some(match category.as_str() {
        "invalid_recipient" | "invalid_domain" | "inactive_mailbox" => Outcome::ByCode,
        "rate_limited" | "greylisted" | "network" | "dns" => Outcome::Deferred,
        _ if Category::KNOWN.contains(category) => Outcome::Soft,
        _ => return None,
    })
}

fn default_cause(category: &Category) -> Option<RootCause> {
    Some(match category.as_str() {
        "invalid_recipient" | "invalid_domain" | "inactive_mailbox" => RootCause::List,
        "mailbox_full" => RootCause::Mailbox,
        "spam_content" | "message_too_large" => RootCause::Content,
        "reputation" => RootCause::Reputation,
        "authentication" => RootCause::Authentication,
        "rate_limited" | "greylisted" => RootCause::Throttling,
        "sender_rejected" | "dns" | "network" | "protocol" => RootCause::Infrastructure,
        _ if Category::KNOWN.contains(category) => RootCause::Unknown,
        _ => return None,
    })
}

fn default_action(category: &Category) -> Option<Action> {
    matches!(category.as_str(), "greylisted" | "remote_system" | "expired" | "network").then_some(Action::RetryLater)
}

fn default_blocked(category: &Category) -> Option<bool> {
    let blocks = matches!(category.as_str(), "spam_content" | "reputation" | "authentication" | "policy" | "sender_rejected");
    Category::KNOWN.contains(category).then_some(blocks)
}
