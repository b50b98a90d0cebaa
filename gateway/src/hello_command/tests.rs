use clap::Parser;

use super::*;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    hello: HelloArgs,
}

const HELLOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hellos");

fn lines(args: &[&str]) -> (Vec<Value>, bool) {
    let command = Command::try_parse_from([&["hello"], args].concat()).unwrap();
    let mut out = Vec::new();
    let to = |hello: &ClientHello| Some(Value::from(format!("to {}", hello.server_name())));
    let all_read = report(&command.hello, to, &mut out).unwrap();
    let lines = out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    (lines.map(|line| serde_json::from_slice(line).unwrap()).collect(), all_read)
}

fn temporary(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn a_good_hello_is_a_line_with_all_that_it_says_and_where_it_goes() {
    let (lines, all_read) = lines(&[&format!("{HELLOS}/openssl_alpn_istio.bin")]);
    assert!(all_read);
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!(line["verdict"], "route");
    assert_eq!(line["server_name"], "outbound_.8000_._.httpbin.bar.global");
    assert_eq!(line["alpn"], serde_json::json!(["istio-peer-exchange", "istio"]));
    assert_eq!(line["versions"], serde_json::json!(["TLS1.3", "TLS1.2", "TLS1.1", "TLS1.0"]));
    assert_eq!(line["consumed"], 374);
    assert_eq!(line["route"], "to outbound_.8000_._.httpbin.bar.global");
    assert_eq!(line["reason"], Value::Null);
    assert!(line["ja4"].as_str().unwrap().starts_with("t13d"), "{line}");
}

#[test]
fn a_refusal_is_a_line_with_reason_and_alert() {
    let file = temporary(b"GET / HTTP/1.1\r\n\r\n");
    let (lines, all_read) = lines(&[file.path().to_str().unwrap()]);
    assert!(all_read);
    assert_eq!(lines[0]["verdict"], "refuse");
    assert_eq!(lines[0]["reason"], "http");
    assert_eq!(lines[0]["alert"], 10);
    assert_eq!(lines[0]["alert_name"], "unexpected_message");
    assert!(lines[0].get("route").is_none());
}

#[test]
fn pieces_and_hexadecimal_digits_give_the_same_line() {
    let raw = std::fs::read(format!("{HELLOS}/browser_chrome133a.bin")).unwrap();
    let hex: Vec<_> = raw.iter().map(|byte| format!("{byte:02X}")).collect();
    let file = temporary(hex.join(":\n").as_bytes());
    let file = file.path().to_str().unwrap();
    let whole = lines(&[&format!("{HELLOS}/browser_chrome133a.bin")]).0;
    for sizes in ["n", "1", "1,5,n", "700", "3,4096"] {
        let mut pieces = lines(&["--hex", "--chunks", sizes, file]).0;
        pieces[0]["file"] = whole[0]["file"].clone();
        assert_eq!(pieces, whole, "{sizes}");
    }
}

#[test]
fn a_file_that_cannot_be_read_does_not_hide_the_others() {
    let cut = temporary(&[22, 3, 1]);
    let cut = cut.path().to_str().unwrap();
    let (lines, all_read) = lines(&["/no/such/file", cut]);
    assert!(!all_read);
    assert_eq!(lines[0]["file"], "/no/such/file");
    assert!(lines[0]["error"].is_string());
    assert_eq!(lines[1]["verdict"], "need_more");
    let broken = temporary(b"16 03 0");
    let (lines, all_read) = self::lines(&["--hex", broken.path().to_str().unwrap()]);
    assert!(!all_read && lines[0]["error"].is_string());
}

#[test]
fn sizes_that_are_no_sizes_are_refused() {
    for bad in ["0", "x", "1,,2", "-1"] {
        assert!(Command::try_parse_from(["hello", &format!("--chunks={bad}"), "f"]).is_err(), "{bad}");
    }
    assert!(Command::try_parse_from(["hello", "--max-message=131073", "f"]).is_err());
}
