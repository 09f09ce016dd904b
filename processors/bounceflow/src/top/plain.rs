//! The view as plain lines, for pipes, logs and tickets. Text only; the caller writes it.

use super::columns::Columns;
use super::format;
use super::model::Model;
use super::words::{self, Palette};

/// Columns of the table; the other lines are as long as they are.
const WIDTH: usize = 120;

/// One report: how far the figures are, the table, the alerts.
pub(super) fn report(model: &Model) -> Vec<String> {
    let mut lines: Vec<String> = words::header(model, Palette::PLAIN, usize::MAX).iter().map(ToString::to_string).collect();
    if let Some(trouble) = &model.trouble {
        lines.truncate(1);
        lines.push(format!("{}. {}", trouble.said, trouble.advice));
    } else {
        lines.push(String::new());
        lines.push(words::rates_title(model).join(" · "));
        lines.extend(table(model));
        lines.push(String::new());
        lines.push(words::alerts_title(model));
        for alert in &model.alerts {
            lines.extend(words::alert(alert, model.now, Palette::PLAIN, usize::MAX).iter().map(ToString::to_string));
        }
    }
    lines.iter().map(|line| format::clean(line).trim_end().to_owned()).collect()
}

fn table(model: &Model) -> Vec<String> {
    let scope = model.rates.as_ref().map_or("", |rates| &rates.scope);
    let columns = Columns::fit(&model.rows, scope, (model.ask.sort, model.ask.ascending), WIDTH);
    let mut lines = vec![columns.head()];
    for row in &model.rows {
        let alert = model.alert_on(&row.isp, &row.identity, None);
        let cells: Vec<String> = columns.cells(row).into_iter().map(|cell| cell.text).collect();
        lines.push(format!("{} {}", words::mark(alert.map(|alert| alert.state.as_str())), cells.join(" ")));
    }
    if model.rows.is_empty() {
        lines.push("  nothing is counted in this window".to_owned());
    }
    lines
}
