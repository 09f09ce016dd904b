//! How replies read: wrappers off, codes found, variable parts masked, and one fingerprint for one meaning.

use bounceflow_classify::{Command, Reading, Reply, redact};

fn template(diagnostic: &str) -> String {
    let mut reading = Reading::new();
    reading.read(&Reply { diagnostic, ..Reply::default() });
    reading.template().to_owned()
}

#[test]
fn replies_read_as_templates() {
    let cases = [
        (
            "550 5.1.1 <kim@example.com>: Recipient address rejected: User unknown",
            "550 5.1.1 <addr>: recipient address rejected: user unknown",
        ),
        ("smtp; 550-5.1.1 No such\r\n550 5.1.1 user here", "550 5.1.1 no such user here"),
        ("host mx.example.com[192.0.2.1] said: 450 4.2.2 Mailbox full (in reply to RCPT TO command)", "450 4.2.2 mailbox full"),
        (
            "Remote Server returned '550 5.1.10 RESOLVER.ADR.RecipientNotFound; not found'",
            "550 5.1.10 resolver.adr.recipientnotfound; not found",
        ),
        ("(550, b'5.7.1 message content rejected')", "550 5.7.1 message content rejected"),
        (
            "421 4.7.0 [TSS04] Messages from 192.0.2.7 deferred - 4.16.55.1",
            "421 4.7.0 [tss04] messages from <ip> deferred - <ip>",
        ),
        (
            "550 Blocked (S3150) [2001:db8::1 12] RP-001 IB212 (IPFR1) [BL21] AUP#CXBL",
            "550 blocked (s3150) <ip> <num> rp-001 ib212 (ipfr1) [bl21] aup#cxbl",
        ),
        ("550 5.2.0 Mail rejete. OFR004_506 [506]", "550 5.2.0 mail rejete. ofr_506 <num>"),
        (
            "550-5.1.1 https://support.google.com/mail/?p=NoSuchUser d65-20020a251d44000000b006f3cd.234 - gsmtp",
            "550 5.1.1 support.google.com/mail/?p=nosuchuser <id> - gsmtp",
        ),
        ("554 5.7.1 see http://www.spamhaus.org/query/bl?ip=192.0.2.7", "554 5.7.1 see spamhaus.org/query/bl?ip=<ip>"),
        ("queued as 4WxYz12345z1abc at 2024-06-24T08:58:06.389Z 10:20:30", "queued as <id> at <time>"),
        ("550 unknown user \"kim\"", "550 unknown user <user>"),
        ("550 5.1.1 a b c 550 5.1.1 a b c", "550 5.1.1 a b c"),
        ("sorry (#5.2.2)", "5.2.2 sorry"),
        ("a limit of 451 messages", "a limit of <num> messages"),
        ("", ""),
        ("550", "550"),
        ("999 5.9.999 what", "5.9.999 <num> what"),
        ("X-Unix; 255", "x-unix; <num>"),
        ("x-unix; no such user", "no such user"),
        (
            "failure: 192.0.2.7_does_not_like_recipient./Remote_host_said:_550_sorry,_no_mailbox_here_(#5.1.1)/Giving_up_on_192.0.2.7./",
            "550 5.1.1 sorry, no mailbox here giving up on <ip>",
        ),
        ("from=<>, to=<a@b.c>, relay=192.0.2.7 (mx.b.c), delay=0s, stat=550 Invalid recipient", "550 invalid recipient"),
        ("to=<a@b.c>, dsn=5.1.1, stat=User unknown", "5.1.1 user unknown"),
        (
            "4F1: to=<a@b.c>, relay=none, dsn=4.4.1, status=deferred (connect to mx.b.com[192.0.2.7]:25: Connection timed out)",
            "4.4.1 connect to <host> <ip>:<num>: connection timed out",
        ),
        ("Temporary error from SMTP partner: smtp;421 4.4.2 mx.b.com Error: timeout", "421 4.4.2 <host> error: timeout"),
        (
            "STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; Failed",
            "storedrv.submission.exception:sendasdeniedexception.mapiexceptionsendasdenied; failed",
        ),
    ];
    let wrong: Vec<_> = cases.into_iter().map(|(d, e)| (d, e, template(d))).filter(|(_, e, got)| e != got).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_same_said_differently_is_one_pattern() {
    let mut reading = Reading::new();
    let mut of = |reply: Reply<'_>| {
        reading.read(&reply);
        reading.fingerprint()
    };
    let whole = of(Reply { diagnostic: "550-5.1.1 <a@b.com>... User\n550 5.1.1 unknown", ..Reply::default() });
    let fields = Reply { reply_code: 550, enhanced_code: "5.1.1", diagnostic: "<c@d.org>... user unknown", ..Reply::default() };
    let wrapped = "host mx.d.org[192.0.2.9] said: 550 5.1.1 <c@d.org>... User unknown (in reply to RCPT TO command)";
    assert_eq!(whole, of(fields));
    assert_eq!(whole, of(Reply { diagnostic: wrapped, ..Reply::default() }));
    assert_ne!(whole, of(Reply { reply_code: 450, ..fields }));
}

#[test]
fn wrappers_tell_the_command() {
    let cases = [
        ("550 no (in reply to end of DATA command)", Command::Data, false),
        ("SMTP error from remote mail server after RCPT TO:<a@b.c>: host mx [192.0.2.1]: 550 no way", Command::Rcpt, false),
        ("SMTP error from remote mail server after initial connection: 550 no way", Command::Connect, true),
        ("SMTP error from remote mail server after pipelined DATA: host mx [192.0.2.1]: 550 no way", Command::Data, false),
        ("SMTP error from remote mail server after EHLO mx.b.c: host mx [192.0.2.1]: 550 no way", Command::Helo, false),
        ("192.0.2.1 does not like recipient. Remote host said: 550 no way", Command::Rcpt, false),
        ("host mx.b.c[192.0.2.1] refused to talk to me: 554 no way", Command::None, true),
    ];
    for (diagnostic, command, greeting) in cases {
        let mut reading = Reading::new();
        reading.read(&Reply { diagnostic, ..Reply::default() });
        assert_eq!((reading.command(), reading.greeting()), (command, greeting), "{diagnostic}");
    }
}

#[test]
fn redaction_keeps_what_people_read() {
    let cases = [
        ("550 5.1.1 <kim.lee@example.com>:\r\n User unknown", "550 5.1.1 <***@example.com>: User unknown"),
        ("\"kim lee\"@example.com", "***@example.com"),
        ("see http://x.org/?id=kim%40example.com&r=1", "see http://x.org/?id=***%40example.com&r=1"),
        ("bounce+kim=example.com@esp.net", "***@esp.net"),
        ("\u{1f408}\u{fe0f}@example.jp", "***@example.jp"),
        ("unknown user: kim", "unknown user: ***"),
        ("User 'kim' is over quota", "User '***' is over quota"),
        ("/var/mail/kim/INBOX: Disk quota exceeded", "/*** Disk quota exceeded"),
        ("550 User unknown in virtual mailbox table", "550 User unknown in virtual mailbox table"),
        ("550 no such user here", "550 no such user here"),
        ("a\0b\tc", "a b c"),
    ];
    let redacted = |diagnostic| {
        let mut out = String::from("left over");
        redact(diagnostic, &mut out);
        out
    };
    let wrong: Vec<_> = cases.into_iter().map(|(d, e)| (d, e, redacted(d))).filter(|(_, e, got)| e != got).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
