//! What no server should send: empty, cut off, contradicting itself, in a wrong charset, or a whole mail. Each with the verdict
//! that somebody who keeps the list would want: never hard without words or codes that say so.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::sync::Arc;

use bounceflow_classify::{Classifier, Reply, Rules};
use bounceflow_event::EventType;

const BOUNCE: Reply<'_> = Reply {
    event: Some(EventType::Bounce),
    reply_code: 0,
    enhanced_code: "",
    diagnostic: "",
    command: "",
    isp: "",
    mx_host: "",
    recipient_domain: "",
};

#[track_caller]
fn check(reply: Reply<'_>, category: &str, severity: &str) {
    let mut classifier = Classifier::new(Arc::new(Rules::builtin().unwrap()));
    let verdict = classifier.classify(&reply).verdict.clone();
    assert_eq!((verdict.category.as_str(), verdict.severity.as_str()), (category, severity), "{reply:?} by {}", verdict.rule);
}

#[track_caller]
fn text(diagnostic: &str, category: &str, severity: &str) {
    check(Reply { diagnostic, ..BOUNCE }, category, severity);
}

#[test]
fn nothing_said_is_unknown() {
    for nothing in ["", " ", "\r\n\t", "\0\0", "-", "...", "\"\"", "<>", "()", "\u{feff}"] {
        text(nothing, "unknown", "soft");
    }
    check(Reply { event: Some(EventType::Deferral), ..BOUNCE }, "unknown", "deferred");
}

#[test]
fn a_code_alone_says_no_more_than_it_does() {
    text("550", "unknown", "soft");
    text("554", "unknown", "soft");
    text("550 5.0.0", "unknown", "soft");
    text("5.1.1", "invalid_recipient", "hard");
    text("552 5.2.2", "mailbox_full", "soft");
    text("421", "remote_system", "soft");
    check(Reply { reply_code: 550, command: "RCPT TO", ..BOUNCE }, "invalid_recipient", "hard");
    check(Reply { reply_code: 550, command: "MAIL FROM", ..BOUNCE }, "sender_rejected", "soft");
    check(Reply { reply_code: 550, command: "DATA", ..BOUNCE }, "policy", "soft");
}

#[test]
fn numbers_that_are_no_failure_are_not_codes() {
    for number in ["255", "0", "999", "1", "127", "250", "999 999 999", "5.9", "550550", "5.1.1.1"] {
        text(number, "unknown", "soft");
    }
    check(Reply { reply_code: 999, enhanced_code: "9.9.9", ..BOUNCE }, "unknown", "soft");
    check(Reply { reply_code: 65535, enhanced_code: "five", diagnostic: "user unknown", ..BOUNCE }, "invalid_recipient", "hard");
    check(Reply { reply_code: 250, enhanced_code: "2.0.0", diagnostic: "250 2.0.0 Ok: queued", ..BOUNCE }, "unknown", "soft");
}

/// The words win over the enhanced code, that over the reply code; transient stays transient, whoever says so first.
#[test]
fn codes_that_contradict_each_other() {
    text("450 5.1.1 User unknown", "invalid_recipient", "soft");
    check(
        Reply { event: Some(EventType::Deferral), diagnostic: "450 5.1.1 User unknown", ..BOUNCE },
        "invalid_recipient",
        "deferred",
    );
    text("550 4.2.2 mailbox full", "mailbox_full", "soft");
    text("550 5.1.1 mailbox full", "mailbox_full", "soft");
    text("554 5.2.2 User unknown", "invalid_recipient", "hard");
    text("421 4.4.2 Message submission rate has exceeded the configured limit", "rate_limited", "soft");
    check(
        Reply { reply_code: 550, enhanced_code: "5.1.1", diagnostic: "450 4.2.0 Greylisted, try again", ..BOUNCE },
        "greylisted",
        "soft",
    );
    check(Reply { reply_code: 450, diagnostic: "550 5.1.1 no such user", ..BOUNCE }, "invalid_recipient", "soft");
}

#[test]
fn control_bytes_are_white_space() {
    text("550 5.1.1\0User\u{1}unknown\u{7f}", "invalid_recipient", "hard");
    text("\u{1b}[31m550 5.2.2 mailbox\u{b}full\u{1b}[0m", "mailbox_full", "soft");
    text("550\r5.7.1\rblocked\rusing\rzen.spamhaus.org", "reputation", "soft");
}

/// Bytes of another charset reach here as U+FFFD or as the wrong letters: the codes still stand.
#[test]
fn another_charset_leaves_the_codes() {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&lossy(b"552 5.2.2 bo\xeete aux lettres pleine"), "mailbox_full", "soft");
    text(&lossy(b"550 5.1.1 \xd3\xc3\xbb\xa7\xb2\xbb\xb4\xe6\xd4\xda"), "invalid_recipient", "hard");
    text(&lossy(b"550 \xd3\xc3\xbb\xa7\xb2\xbb\xb4\xe6\xd4\xda"), "unknown", "soft");
    text(&lossy(b"550 5.1.1 User\xff\xfe unknown"), "invalid_recipient", "hard");
    text("552 5.2.2 bo\u{c3}\u{ae}te aux lettres pleine", "mailbox_full", "soft");
}

#[test]
fn of_a_whole_mail_the_diagnostic_decides() {
    let returned = "Return-Path: <>\r\nReceived: from mx.example.com (mx.example.com [192.0.2.7])\r\n\tby mx.example.net with ESMTP id 4F1\r\n\
        Received: by mx.example.com (Postfix) id 5A2\r\nFrom: MAILER-DAEMON@example.com\r\nSubject: Undelivered Mail Returned to Sender\r\n\
        MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status\r\n\r\n\
        This is the mail system at host mx.example.com.\r\n\r\nFinal-Recipient: rfc822; kim@example.org\r\nAction: failed\r\n\
        Status: 5.2.2\r\nDiagnostic-Code: smtp; 552 5.2.2 <kim@example.org>: Over quota\r\n";
    text(returned, "mailbox_full", "soft");
    let quoted = "550 5.1.1 <kim@example.org>: User unknown\r\n\r\nReceived: from mx.example.com (mx.example.com [192.0.2.7])\r\n\
        DKIM-Signature: v=1; a=rsa-sha256; d=example.com\r\nSubject: Your mailbox is full, quota exceeded\r\n\r\nSpam! Virus!\r\n";
    text(quoted, "invalid_recipient", "hard");
}
