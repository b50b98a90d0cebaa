use eastgate_config::bootstrap::Format;

use super::write::FLUSH;
use super::*;

fn log(path: &std::path::Path, format: Format) -> (AccessLog, Writer) {
    let path = path.display().to_string();
    let settings = bootstrap::AccessLog { path, format, ..bootstrap::AccessLog::default() };
    AccessLog::open(&settings, None, IntCounter::new("dropped", "x").unwrap()).unwrap()
}

fn lines(format: Format) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (log, writer) = log(&path, format);
    let mut record = log.begin(&"l".into(), ([127, 0, 0, 1], 1).into());
    record.server_name = Some("a.b".parse().unwrap());
    record.error = None;
    drop(record);
    drop(log.begin(&"l".into(), ([127, 0, 0, 1], 2).into()));
    drop(log);
    writer.finish();
    std::fs::read_to_string(&path).unwrap()
}

#[test]
fn a_record_is_one_line_of_json_even_when_its_connection_was_cut() {
    let text = lines(Format::Json);
    let records: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records[0]["server_name"], "a.b");
    assert_eq!(records[0]["error"], serde_json::Value::Null);
    assert_eq!(records[1]["error"], "the connection's task was ended");
}

#[test]
fn lines_come_out_though_there_is_no_pause() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (log, writer) = log(&path, Format::Json);
    // So few do not fill the buffer, and none of them is late enough for a pause.
    let out = (0..100).any(|_| {
        drop(log.begin(&"l".into(), ([127, 0, 0, 1], 1).into()));
        std::thread::sleep(FLUSH / 10);
        path.metadata().unwrap().len() > 0
    });
    drop(log);
    writer.finish();
    assert!(out && path.metadata().unwrap().len() < 64 * 1024);
}

#[test]
fn text_has_a_dash_for_what_is_not_known() {
    let text = lines(Format::Text);
    assert!(text.lines().next().unwrap().contains(" - 0 0 "), "{text}");
}

/// A record of a connection that was refused by its endpoint.
fn failed(log: &AccessLog) -> Open {
    let mut record = log.begin(&"l".into(), ([127, 0, 0, 1], 7).into());
    record.server_name = Some("a.b".parse().unwrap());
    record.endpoint = Some(([10, 0, 0, 1], 443).into());
    (record.to_upstream_bytes, record.attempts) = (517, 1);
    record.hello = Duration::from_millis(2).into();
    record.close(Some((Flag::UpstreamFailed, || "it said\nno".to_owned())));
    record
}

fn line_of(settings: bootstrap::AccessLog) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let settings = bootstrap::AccessLog { path: path.display().to_string(), ..settings };
    let (log, writer) = AccessLog::open(&settings, None, IntCounter::new("dropped", "x").unwrap()).unwrap();
    drop(failed(&log));
    drop(log);
    writer.finish();
    std::fs::read_to_string(&path).unwrap()
}

#[test]
fn a_format_string_has_values_dashes_and_lengths() {
    let format_string = "%RESPONSE_FLAGS%|%RESPONSE_FLAGS_LONG:8%|%REQUESTED_SERVER_NAME%|%BYTES_RECEIVED%|%UPSTREAM_HOST%|\
        %UPSTREAM_REMOTE_PORT%|%UPSTREAM_CLUSTER%|%UPSTREAM_TRANSPORT_FAILURE_REASON%|%CONNECTION_TERMINATION_DETAILS%|\
        %DOWNSTREAM_DIRECT_REMOTE_ADDRESS%|%DOWNSTREAM_LOCAL_ADDRESS%|%UPSTREAM_CONNECTION_POOL_READY_DURATION%|%HELLO_DURATION%";
    let line = line_of(bootstrap::AccessLog { format_string: format_string.into(), ..Default::default() });
    let expected = "UF|Upstream|a.b|517|10.0.0.1:443|-|-|it_said_no|-|127.0.0.1:7|-|-|2\n";
    assert_eq!(line, expected);
}

#[test]
fn fields_of_an_object_have_their_types() {
    let fields = [
        ("bytes", "%BYTES_RECEIVED%"),
        ("cluster", "%UPSTREAM_CLUSTER%"),
        ("what", "%RESPONSE_FLAGS%, %UPSTREAM_REQUEST_ATTEMPT_COUNT% tried"),
    ];
    let fields = fields.map(|(key, text)| (key.to_owned(), text.to_owned())).into();
    let line = line_of(bootstrap::AccessLog { fields, ..Default::default() });
    assert_eq!(line, "{\"bytes\":517,\"cluster\":null,\"what\":\"UF, 1 tried\"}\n");
}

#[test]
fn a_time_has_the_form_that_is_asked_for_if_it_is_one() {
    let of = |form: &str| bootstrap::AccessLog {
        format_string: format!("%START_TIME({form})%"),
        ..Default::default()
    };
    let line = line_of(of("%Y-%m-%d|%s|%3f"));
    let parts: Vec<_> = line.trim_end().split('|').collect();
    assert_eq!([parts[0].len(), parts[2].len()], [10, 3], "{line}");
    let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
        - parts[1].parse::<u64>().unwrap();
    assert!(age < 60, "{line}");
    let dropped = IntCounter::new("dropped", "x").unwrap();
    let error = AccessLog::open(&of("%!"), None, dropped).unwrap_err();
    assert!(error.to_string().starts_with("%START_TIME(%!)%"), "{error}");
}

#[test]
fn what_failed_is_recorded_whatever_the_filter_says_of_the_others() {
    let filter = |only_failures, min_duration_ms, sample| Filter { only_failures, min_duration_ms, sample };
    assert!(filter(true, 1000, 0.0).keeps(Flag::UpstreamFailed, 0, || 0.9));
    assert!(!filter(true, 0, 1.0).keeps(Flag::Ordinary, 5, || 0.0));
    let long = filter(false, 10, 1.0);
    assert_eq!([9, 10].map(|duration| long.keeps(Flag::Ordinary, duration, || 0.0)), [false, true]);
    let sampled = filter(false, 0, 0.25);
    assert_eq!([0.2, 0.25].map(|draw| sampled.keeps(Flag::Ordinary, 0, || draw)), [true, false]);
}

#[test]
fn a_file_that_was_renamed_is_opened_anew_and_no_line_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (path, old) = (directory.path().join("log"), directory.path().join("log.1"));
    let (log, writer) = log(&path, Format::Text);
    let record = |port| drop(log.begin(&"l".into(), ([127, 0, 0, 1], port).into()));
    (0..500).for_each(record);
    std::fs::rename(&path, &old).unwrap();
    log.reopener().reopen();
    // Anything that is recorded once the new file is there goes to it.
    while !path.exists() {
        std::thread::yield_now();
    }
    (500..1000).for_each(record);
    drop(log);
    writer.finish();
    let [before, after] = [old, path].map(|path| std::fs::read_to_string(path).unwrap());
    assert_eq!(before.lines().count() + after.lines().count(), 1000);
    assert!(after.lines().count() >= 500);
}
