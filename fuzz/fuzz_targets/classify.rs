//! Any bytes as a reply: read, classified with and without the cache, explained, redacted. None may panic, and all must keep to
//! their bounds. Bytes: two of reply code, one of event, then the fields, parted by 0xff; what is no UTF-8 is replaced.
#![no_main]

use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

use bounceflow_classify::{Classifier, MAX_DIAGNOSTIC, Reading, Reply, Rules, redact};
use bounceflow_event::{EventType, Severity};
use libfuzzer_sys::fuzz_target;

static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| Arc::new(Rules::builtin().expect("the built-in rules")));

thread_local! {
    /// Kept from one input to the next, as a worker keeps them: what one reply leaves behind must not change the next.
    static KEPT: RefCell<(Classifier, String)> = RefCell::new((Classifier::new(Arc::clone(&RULES)), String::new()));
}

fuzz_target!(|data: &[u8]| {
    let [low, high, event, fields @ ..] = data else { return };
    let event = [None, Some(EventType::Deferral), Some(EventType::Bounce), Some(EventType::OobBounce)][usize::from(event % 4)];
    let mut fields = fields.split(|b| *b == 0xff).map(String::from_utf8_lossy);
    let mut field = || fields.next().unwrap_or_default();
    let (diagnostic, enhanced, command, isp, mx, domain) = (field(), field(), field(), field(), field(), field());
    let reply = Reply {
        event,
        reply_code: u16::from_le_bytes([*low, *high]),
        enhanced_code: &enhanced,
        diagnostic: &diagnostic,
        command: &command,
        isp: &isp,
        mx_host: &mx,
        recipient_domain: &domain,
    };

    let mut reading = Reading::new();
    reading.read(&reply);
    let fresh = RULES.classify(&reading);
    assert_eq!(RULES.explain(&reading)[0].verdict, *fresh);
    match event {
        Some(EventType::Deferral) => assert_eq!(fresh.severity, Severity::Deferred),
        Some(_) => assert_ne!(fresh.severity, Severity::Deferred),
        None => {}
    }
    // A placeholder may be longer than what it stands for, but not by more than this.
    assert!(reading.template().len() <= 4 * MAX_DIAGNOSTIC, "{} bytes", reading.template().len());

    KEPT.with_borrow_mut(|(classifier, redacted)| {
        let kept = classifier.classify(&reply);
        assert_eq!((kept.verdict, kept.template, kept.fingerprint), (fresh, reading.template(), reading.fingerprint()));
        redact(&diagnostic, redacted);
        assert!(redacted.len() <= MAX_DIAGNOSTIC && !redacted.contains(char::is_control));
    });
});
