//! What ClickHouse answered to an insert, and what that means. Pure: no retries, no counting, no I/O.

/// The outcome of one insert request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The server said OK: the block and everything views made of it are stored, by this request or an earlier one.
    Written,
    /// The server answered with an error. Rows may be written all the same, where a view failed.
    Refused {
        /// ClickHouse's error code, where the answer held one (a proxy's does not).
        code: Option<u32>,
        /// The server's words, cut to a bearable length.
        message: String,
    },
    /// No answer or half an answer (refused, reset, timed out): whether rows were written is not known.
    Broken {
        /// What happened to the connection.
        message: String,
    },
}

/// What the sink does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on: move the offset.
    Written,
    /// Send the identical block again, later. How often, the caller decides.
    Retry,
    /// Stop: the same request cannot succeed until a person mends something.
    Halt,
    /// A row of this block cannot be stored: bisect it.
    Poison,
    /// The block spans too many partitions: split it by month.
    Split,
}

impl Verdict {
    /// Every verdict, for metrics.
    pub const ALL: [Self; 5] = [Self::Written, Self::Retry, Self::Halt, Self::Poison, Self::Split];

    /// The spelling used in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Retry => "retry",
            Self::Halt => "halt",
            Self::Poison => "poison",
            Self::Split => "split",
        }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Written => f.write_str("written"),
            Self::Refused { message, .. } => write!(f, "ClickHouse answered: {message}"),
            Self::Broken { message } => write!(f, "no answer of ClickHouse: {message}"),
        }
    }
}

/// The server does not let us in. Its password may be ahead of ours, or behind, while it is changed: so the batch is sent again until
/// the two agree.
const AUTHENTICATION: &[u32] = &[
    192, // UNKNOWN_USER
    193, // WRONG_PASSWORD
    194, // REQUIRED_PASSWORD
    195, // IP_ADDRESS_NOT_ALLOWED
    516, // AUTHENTICATION_FAILED
];

/// The server cannot be served as things stand: grants, missing table or column, unknown setting, syntax.
const HALT: &[u32] = &[
    16,  // NO_SUCH_COLUMN_IN_TABLE
    20,  // NUMBER_OF_COLUMNS_DOESNT_MATCH
    47,  // UNKNOWN_IDENTIFIER
    48,  // NOT_IMPLEMENTED
    60,  // UNKNOWN_TABLE
    62,  // SYNTAX_ERROR
    73,  // UNKNOWN_FORMAT
    81,  // UNKNOWN_DATABASE
    115, // UNKNOWN_SETTING
    164, // READONLY: of the user; a read-only table is 242, and passes
    291, // DATABASE_ACCESS_DENIED
    452, // SETTING_CONSTRAINT_VIOLATION
    497, // ACCESS_DENIED
];

/// The bytes of a row could not be read, or do not fit the column's type.
const POISON: &[u32] = &[
    6,   // CANNOT_PARSE_TEXT
    26,  // CANNOT_PARSE_QUOTED_STRING
    27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
    32,  // ATTEMPT_TO_READ_AFTER_EOF
    33,  // CANNOT_READ_ALL_DATA
    38,  // CANNOT_PARSE_DATE
    41,  // CANNOT_PARSE_DATETIME
    53,  // TYPE_MISMATCH
    69,  // ARGUMENT_OUT_OF_BOUND
    70,  // CANNOT_CONVERT_TYPE
    72,  // CANNOT_PARSE_NUMBER
    117, // INCORRECT_DATA
    128, // TOO_LARGE_ARRAY_SIZE
    131, // TOO_LARGE_STRING_SIZE
    190, // SIZES_OF_ARRAYS_DONT_MATCH
    321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    349, // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
    467, // CANNOT_PARSE_BOOL
];

/// The server cannot take anything now, whatever the block: it lacks room, time or its Keeper. Another replica may have them.
const OF_THE_SERVER: &[u32] = &[
    159, // TIMEOUT_EXCEEDED
    202, // TOO_MANY_SIMULTANEOUS_QUERIES
    209, // SOCKET_TIMEOUT
    210, // NETWORK_ERROR
    225, // NO_ZOOKEEPER
    236, // ABORTED: the server shuts down
    241, // MEMORY_LIMIT_EXCEEDED
    242, // TABLE_IS_READ_ONLY: cut off from Keeper
    243, // NOT_ENOUGH_SPACE
    252, // TOO_MANY_PARTS
    319, // UNKNOWN_STATUS_OF_INSERT: Keeper was lost while it was told
    394, // QUERY_WAS_CANCELLED
    999, // KEEPER_EXCEPTION
];

/// Two conditions share this code: too many parts in the table, and too many partitions in the block.
const TOO_MANY_PARTS: u32 = 252;

const VIOLATED_CONSTRAINT: u32 = 469;

/// What an answer means.
pub fn judge(answer: &Answer) -> Verdict {
    match answer {
        Answer::Written => Verdict::Written,
        Answer::Broken { .. } | Answer::Refused { code: None, .. } => Verdict::Retry,
        // The base table's rows are written by then, and the view may fail with any code, a parse error among them.
        Answer::Refused { message, .. } if is_from_view(message) => Verdict::Retry,
        Answer::Refused { code: Some(TOO_MANY_PARTS), message } if is_about_partitions(message) => Verdict::Split,
        Answer::Refused { code: Some(code), .. } if HALT.contains(code) => Verdict::Halt,
        Answer::Refused { code: Some(code), .. } if POISON.contains(code) => Verdict::Poison,
        Answer::Refused { .. } => Verdict::Retry,
    }
}

/// Whether an answer says something of the server rather than of the block: such a batch is sent again for as long as that lasts,
/// and to another replica where there is one.
pub fn is_of_the_server(answer: &Answer) -> bool {
    match answer {
        Answer::Written => false,
        Answer::Broken { .. } => true,
        Answer::Refused { code, .. } => {
            let of_the_server = |code| OF_THE_SERVER.contains(&code) || AUTHENTICATION.contains(&code);
            code.is_some_and(of_the_server) && judge(answer) == Verdict::Retry
        }
    }
}

/// Whether a constraint of the table itself refused the block, as the fence of a replay does: it is looked at before anything is written,
/// so no row of the block is there and no view has heard of it.
pub fn is_held_off(answer: &Answer) -> bool {
    matches!(answer, Answer::Refused { code: Some(VIOLATED_CONSTRAINT), message } if !is_from_view(message))
}

/// Whether nothing but a person can change this answer.
pub(crate) fn needs_a_person(code: u32) -> bool {
    HALT.contains(&code)
}

/// What a person does about a refusal with this code; empty where there is nothing to do but wait.
pub fn advice(code: Option<u32>) -> &'static str {
    match code {
        Some(16 | 20 | 47 | 60 | 81) => "run `bounceflow migrate`, and look whether somebody changed the tables",
        Some(192..=195 | 516) => "check user and password, and from where that user may connect",
        Some(164 | 291 | 497) => {
            "grant the user what it lacks (SELECT and INSERT on the database; to migrate also CREATE and ALTER)"
        }
        Some(115 | 452) => "let the user change this setting: without it an insert cannot be repeated safely",
        Some(48 | 62 | 73) => "check the version of the server: it does not understand this bounceflow",
        Some(241) => "give the server more memory, or make blocks smaller",
        Some(243) => "free disk space on the server",
        Some(225 | 242 | 319 | 999) => {
            "look whether ClickHouse Keeper runs and the server reaches it: its tables take nothing without"
        }
        Some(159) => "give inserts more time (max_execution_time), or look what keeps the server busy",
        Some(202) => "let the server run more queries at once (max_concurrent_queries), or look what keeps it busy",
        Some(TOO_MANY_PARTS) => "wait until merges catch up; where they do not, look at system.merges and the server's disks",
        _ => "",
    }
}

fn is_from_view(message: &str) -> bool {
    message.contains("while pushing to view")
}

fn is_about_partitions(message: &str) -> bool {
    message.contains("max_partitions_per_insert_block") || message.contains("Too many partitions")
}

/// Longest message kept: ClickHouse quotes data and stack traces at length.
const MESSAGE_LIMIT: usize = 1000;

impl Answer {
    /// From what the server wrote: `Code: 60. DB::Exception: …`.
    pub fn refused(text: &str) -> Self {
        Self::Refused { code: error_code(text), message: shorten(text) }
    }

    /// From what a connection said when it ended without a whole answer.
    pub fn broken(text: &str) -> Self {
        Self::Broken { message: shorten(text) }
    }
}

/// The number in `Code: 60. …`, also where a proxy put words before it.
pub(crate) fn error_code(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("Code: ")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
    digits.parse().ok()
}

/// At most [`MESSAGE_LIMIT`] bytes: both ends are kept, for a failing view is named at the end.
pub(crate) fn shorten(text: &str) -> String {
    let text = text.trim();
    if text.len() <= MESSAGE_LIMIT {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(MESSAGE_LIMIT / 2);
    let tail = text.ceil_char_boundary(text.len() - MESSAGE_LIMIT / 2);
    format!("{} […] {}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Verdict) {
        assert_eq!(judge(&Answer::refused(text)), expect, "{text}");
    }

    #[test]
    fn the_code_is_found() {
        assert_eq!(error_code("Code: 60. DB::Exception: Table x does not exist"), Some(60));
        assert_eq!(error_code("proxy says: Code: 241"), Some(241));
        assert_eq!(error_code("500 Internal Server Error"), None);
        assert_eq!(error_code("Code: . DB"), None);
    }

    #[test]
    fn long_messages_keep_both_ends() {
        let text = format!("Code: 1. {}: while pushing to view db.é", "é".repeat(2000));
        let short = shorten(&text);
        assert!(short.len() < MESSAGE_LIMIT + 20);
        assert!(short.starts_with("Code: 1.") && is_from_view(&short));
    }

    #[test]
    fn every_halt_says_what_to_do() {
        assert!(HALT.iter().chain(AUTHENTICATION).all(|code| !advice(Some(*code)).is_empty()));
        assert!(POISON.iter().all(|code| !HALT.contains(code)));
        assert_eq!(advice(None), "");
    }

    #[test]
    fn no_answer_is_repeated() {
        assert_eq!(judge(&Answer::broken("connection reset")), Verdict::Retry);
        assert_eq!(judge(&Answer::Written), Verdict::Written);
        check("502 Bad Gateway", Verdict::Retry);
    }
}
