//! Nanoseconds per call of what runs once per event: `cargo run --release -p bounceflow-enrich --example bench`.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "it measures, and prints what it measured")]

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use bounceflow_enrich::{Identities, IdentityConfig, Isps, Sender, domain_of};

const CALLS: u32 = 5_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let isps = Isps::builtin()?;
    for (what, domain, mx) in [
        ("domain of the table", "gmail.com", "gmail-smtp-in.l.google.com"),
        ("domain of the table, upper case", "GMAIL.COM", "gmail-smtp-in.l.google.com"),
        ("company at Google", "company.example", "alt1.aspmx.l.google.com"),
        ("company at Microsoft", "company.example", "company-example.mail.protection.outlook.com"),
        ("company at Microsoft, upper case", "company.example", "Company-Example.Mail.Protection.Outlook.COM"),
        ("longest suffix", "company.example", "mx-aol.mail.gm0.yahoodns.net"),
        ("outside of the table", "company.example", "mx1.mail.company.example"),
    ] {
        time(&format!("Isps::of, {what}"), || isps.of(black_box(domain), black_box(mx)));
    }
    for address in ["somebody@gmail.com", "<Somebody@Gmail.Com>", "somebody@bücher.example"] {
        time(&format!("domain_of, {address}"), || domain_of(black_box(address)));
    }
    let tags = [(std::borrow::Cow::Borrowed("stream"), std::borrow::Cow::Borrowed("news"))];
    let sender = Sender {
        from_domain: "news.shop.example.com",
        sending_ip: "192.0.2.7",
        pool: "pool-a",
        tags: &tags,
        ..Sender::default()
    };
    let rules = "map = [
        { name = 'a', from_domain = '*.a.example' }, { name = 'b', pool = 'b-*' }, { name = 'c', cidr = '10.0.0.0/8' },
        { name = 'd', tag = 'stream=alerts' }, { name = 'e', from_domain = 'e.example' },
    ]";
    for (what, config) in [("default", ""), ("organizational", "organizational = true"), ("five rules, none fits", rules)] {
        let identities = Identities::new(&toml::from_str::<IdentityConfig>(config)?)?;
        time(&format!("Identities::of, {what}"), || identities.of(black_box(&sender)).len());
    }
    Ok(())
}

/// The best of several rounds: the rest is what the machine did besides.
fn time<T>(what: &str, call: impl Fn() -> T) {
    let round = || {
        let start = Instant::now();
        for _ in 0..CALLS / 10 {
            black_box(call());
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS / 10)
    };
    let best = (0..10).map(|_| round()).fold(f64::INFINITY, f64::min);
    println!("{what:<50} {best:6.1} ns");
}
