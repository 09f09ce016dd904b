-- `batches` holds texts of replies too, one for each pattern: they expire with the other diagnostics. How long these are kept is written
-- down as not known, so that `bounceflow migrate` makes it so in every table, this one now among them.
INSERT INTO retention SELECT class, 4294967295, max(set_at) + INTERVAL 1 MILLISECOND FROM retention WHERE class = 'diagnostics' GROUP BY class;
