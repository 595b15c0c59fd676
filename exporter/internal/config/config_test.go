package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	promconfig "github.com/prometheus/common/config"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// Each rule has its own short bad file, and this is what a user reads.
var invalid = map[string]string{
	"empty":           "it is empty; it needs at least a list `sources` with one entry, see config.example.yaml",
	"comments":        "it is empty; it needs at least a list `sources` with one entry, see config.example.yaml",
	"no-sources":      `sources: there is none; name at least one Loki to read, see config.example.yaml`,
	"unknown-key":     `line 2: field querry is not known`,
	"unknown-section": `line 1: field source is not known`,
	"unknown-nested":  `line 2: field min is not known`,
	"url":             `sources[0].url: "localhost:3100" is not a URL of a server; give one like http://localhost:3100`,
	"zone":            `sources[0].timezone: "Mars/Base" is not a time zone; give auto, UTC, Local or a name like Europe/Berlin`,
	"zones":           `sources[0].timezones.web-1: "nowhere" is not a time zone; give auto, UTC, Local or a name like Europe/Berlin`,
	"page":            `sources[0].page_size: -1; give at least 1 (Loki's default limit is 5000), or 0 for what the server allows`,
	"parallel":        `sources[0].max_parallel: 33; give 1 to 32 requests at once`,
	"buffer":          `sources[0].max_buffer: 7MiB; 4 requests at once need at least 8MiB`,
	"message":         `sources[0].max_message: 1KiB; give at least 1MiB, as large as Loki's server.grpc_server_max_recv_msg_size`,
	"buffer-unit":     `line 2: sources[0].max_buffer: not a valid size: "7 eggs"; give one like 64MB`,
	"query":           `sources[0].query: that is no LogQL`,
	"duplicate":       `sources[1].name: "a" is the name of sources[0] already; each source needs its own`,
	"lookback":        `sources[0].lookback: it must be longer than 0`,
	"duration":        `line 2: sources[0].lag: not a valid duration string: "soon"; give one like 30s, 5m, 1h, 7d`,
	"negative":        `line 4: correlate.stop_pause: not a valid duration string: "-2s"; give one like 30s, 5m, 1h, 7d`,
	"url-port":        `line 2: sources[0].url: not a valid URL: invalid port ":bad" after host`,
	"url-proxy":       `line 3: clients[0].proxy_url: not a valid URL: missing ']' in host`,
	"client-url":      `clients[0].url: it is missing; give the Loki to push findings to, like http://localhost:3100`,
	"client-source":   "clients[0].sources: \"b\" is no source; name entries of `sources`",
	"client-queue":    `clients[0].queue_size: 1MiB; it must hold a batch, of 2097152 bytes`,
	"network":         `line 3: offenders.ignore[1]: not a network: "10.0.0.0/33"; give one like 192.0.2.0/24, or an address`,
	"privacy":         `privacy.metrics: "none"; give plain, truncate or hash`,
	"privacy-key":     `privacy.report: hash needs privacy.key_file; without a key the hashes of all addresses are soon computed`,
	"privacy-id":      `privacy.findings: truncate needs privacy.key_file too; without it finding_id would betray the address`,
	"client-label":    `clients[0].external_labels: "a-b" is no label name`,
	"backoff":         `sources[0].backoff_config: min_period must be longer than 0 and not longer than max_period`,
	"auth":            `sources[0]: at most one of basic_auth, oauth2, bearer_token & bearer_token_file must be configured`,
	"repeat":          `offenders.repeat_bans: 1; who comes back was banned at least 2 times`,
	"persistent":      `offenders.persistent_bans: 2; it must not be less than repeat_bans, 3`,
	"prefix":          `offenders.ipv4_prefix: 33; give the length of a network, 1 to 32`,
	"prefixes":        `offenders.ipv6_prefixes[1]: 0; give the length of a network, 1 to 128`,
	"half-life":       `offenders.score: half_life and return_half_life must be longer than 0`,
	"factor":          `offenders.score.host_factor: -1; give 0 to 1000`,
	"saturation":      `offenders.score.saturation: 0; give a number above 0, up to 1000`,
	"jail-weight":     `offenders.score.jail_weights.sshd: -2; give 0 to 1000`,
	"recidive-weight": `offenders.score.jail_weights.recidive: it is one of recidive_jails, whose bans follow from others; take it out of there to let it weigh`,
	"campaign-window": `offenders.campaigns.window: 10s; give 1m to 12h`,
	"campaign-ids":    `offenders.campaigns: 1 ids from 3 networks; give at least 2 ids from 1`,
	"advice":          `offenders.advice.cover: 80; give a share above 0, up to 1`,
	"save-interval":   `state.save_interval: it must be longer than 0; leave state.path away to keep no state`,
	"tracked-keys":    `state.max_tracked_keys: 10; give at least 1000: a key takes about 500 bytes`,
	"api":             `api.max_restores: 0; give 1 to 100000`,
	"enrich":          `enrich.check_interval: it must be longer than 0; name no files to use none`,
	"detail":          `metrics.detail: "ip"; give auto, fleet, host or jail`,
	"format-none":     `sources[0].format: "mine" is no format; give auto, or the name of an entry of ` + "`formats`",
	"format-name":     "formats[0].name: give a name of 1 to 256 bytes, for `format` of a source",
	"format-auto":     `formats[0].name: "auto" means the forms that are known; give another name`,
	"format-twice":    `formats[1].name: "a" is the name of another format already; each needs its own`,
	"format-both":     `formats[0].regexp: there is a pattern too; give one of them`,
	"format-neither":  "formats[0].pattern: it is missing; give a pattern like `<time> - <action> - <ip> - <jail>`, or a regexp",
	"format-pattern":  `formats[0].pattern: nothing stands between <action> and the part before it; put the text there that divides them`,
	"format-group":    `formats[0].regexp: "address" is no name of a part; the names are time, level, logger, pid, thread, message, host, service, jail, action, ip`,
	"format-regexp":   "formats[0].regexp: error parsing regexp: missing closing ): `(?P<ip>`; it must be of Go's syntax (RE2)",
	"format-time":     `formats[0].time_format: "yesterday" is neither a name (auto, rfc3339, unix, unix_ms, unix_us, unix_ns, syslog) nor a layout of Go's, like 2006-01-02 15:04:05`,
	"format-zone":     `formats[0].timezone: "Mars/Base" is not a time zone; give auto, UTC, Local or a name like Europe/Berlin`,
	"format-key":      `line 4: field patern is not known`,
	"fields":          `sources[0].message_fields: give 1 to 32 names of fields; leave the key away for the usual ones`,
	"jails":           `sources[0].jails[1]: a jail's name has 1 to 256 bytes`,
	"remote-url":      `remote_write[0].url: it is missing; give the receiver's, like http://localhost:9090/api/v1/write`,
	"remote-message":  `remote_write[0].protobuf_message: "2.0"; give prometheus.WriteRequest (remote write 1.0) or io.prometheus.write.v2.Request (2.0)`,
	"remote-header":   `remote_write[0].headers: content-type cannot be set here: the protocol or the keys for authorization set it`,
	"remote-label":    `remote_write[0].external_labels: "__name__" is no label name`,
	"remote-budget":   `remote_write[0].retry_budget: 5m; give at most the interval, 1m: the next round has newer values. 0s is the interval`,
	"remote-nothing":  `remote_write[0].live: neither live nor history is on, so that nothing is written; leave the entry away`,
	"remote-history":  `remote_write[0].history: it needs state.path, where it is remembered that the past was written`,
	"remote-samples":  `remote_write[0].max_samples_per_send: 1; give at least 100`,
	"documents":       `it holds more than one YAML document; give one`,
}

var noLogQL = Validators{Query: func(q string) error {
	if strings.Count(q, "{") != strings.Count(q, "}") {
		return errors.New("that is no LogQL")
	}
	return nil
}, Format: func(f Format) (string, error) {
	_, err := fail2ban.NewFormat(fail2ban.FormatOptions{Name: f.Name, Pattern: f.Pattern, Regexp: f.Regexp, TimeFormat: f.TimeFormat})
	if fe, ok := errors.AsType[*fail2ban.FormatError](err); ok {
		return fe.Key, fe.Err
	}
	return "", err
}}

func TestInvalid(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid-*.yaml")
	if err != nil || len(files) != len(invalid) {
		t.Fatalf("%d files for %d messages: %v", len(files), len(invalid), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "invalid-"), ".yaml")
		_, err := LoadFile(file, false, noLogQL)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		if diff := cmp.Diff("configuration "+file+": "+invalid[name], err.Error()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// The example shows every key with its default; beyond the defaults it has the
// client that makes it useful as it is.
func TestExampleIsTheDefault(t *testing.T) {
	c, err := LoadFile("../../../config.example.yaml", false, noLogQL)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Clients) != 1 || c.Clients[0].URL.String() != "http://localhost:3100" {
		t.Fatalf("clients: %v", c.Clients)
	}
	client := DefaultClient
	client.URL = mustURL("http://localhost:3100")
	want := Default()
	want.Clients = []Client{client}
	if diff := cmp.Diff(want.String(), c.String()); diff != "" {
		t.Error(diff)
	}
}

// Every key of the configuration stands in the example, commented out or not.
func TestExampleIsComplete(t *testing.T) {
	text, err := os.ReadFile("../../../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c := Default()
	c.Sources[0].TenantID, c.Sources[0].Timezones = "x", map[string]string{"a": "UTC"}
	c.Sources[0].JailLabel, c.Sources[0].Jails = "jail", []string{"a] b"}
	c.Formats = []Format{{Name: "x", Pattern: "x", Regexp: "x", TimeFormat: "auto", Timezone: "auto"}}
	client := DefaultClient
	client.URL, client.TenantID, client.Sources, client.ExternalLabels = mustURL("http://h"), "x", []string{"loki"}, map[string]string{"cluster": "x"}
	c.Privacy.KeyFile = "x"
	c.Clients = []Client{client}
	remote := DefaultRemoteWrite
	remote.URL, remote.Headers, remote.ExternalLabels = mustURL("http://h"), map[string]string{"a": "x"}, map[string]string{"job": "x"}
	c.Remotes = []RemoteWrite{remote}
	for line := range strings.Lines(c.String()) {
		key, _, ok := strings.Cut(strings.TrimLeft(line, " -"), ":")
		if !ok || key == "a" || key == "follow_redirects" || key == "enable_http2" || strings.HasPrefix(key, "http") {
			continue
		}
		if !strings.Contains(string(text), key+":") {
			t.Errorf("%s is not in the example", key)
		}
	}
}

// The example's commented lines are a format that works.
func TestExampleFormat(t *testing.T) {
	text, err := os.ReadFile("../../../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, commented, ok := strings.Cut(string(text), "# formats:\n")
	if !ok {
		t.Fatal("the example shows no formats")
	}
	yaml := "sources: [{format: dashed}]\nformats:\n"
	for line := range strings.Lines(commented) {
		rest, ok := strings.CutPrefix(line, "# ")
		if !ok {
			break
		}
		yaml += rest
	}
	c, err := Load([]byte(yaml), false, noLogQL)
	if err != nil {
		t.Fatalf("%v in\n%s", err, yaml)
	}
	want := DefaultFormat
	want.Name, want.Pattern = "dashed", "<time> - <action> - <ip> - <jail>"
	if diff := cmp.Diff(&want, c.FormatNamed("dashed")); diff != "" {
		t.Error(diff)
	}
}

func TestDefaultsOfASource(t *testing.T) {
	c, err := Load([]byte("sources: [{}]"), false, Validators{})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	if diff := cmp.Diff(want.String(), c.String()); diff != "" {
		t.Error(diff)
	}
	if !c.Sources[0].HTTP.FollowRedirects || !c.Sources[0].HTTP.EnableHTTP2 {
		t.Error("the HTTP client's defaults are lost")
	}
}

func TestExpand(t *testing.T) {
	env := map[string]string{"HOST": "loki", "EMPTY": ""}
	lookup := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	for in, want := range map[string]string{
		"http://${HOST}:3100": "http://loki:3100", "${NONE:-x}": "x", "${EMPTY:-y}": "y", "${NONE}": "", "$HOST": "$HOST", "${HOST:-z}": "loki", "$${HOST}": "${HOST}", "a$$b": "a$$b",
	} {
		if got := string(expand([]byte(in), lookup)); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestSecretsAreMasked(t *testing.T) {
	c, err := Load([]byte("sources:\n  - url: http://me:geheim@h\n    basic_auth: {username: u, password: geheim}\nclients: [{url: 'http://x:geheim@h'}]"), false, Validators{})
	if err != nil {
		t.Fatal(err)
	}
	if s := c.String(); strings.Contains(s, "geheim") || !strings.Contains(s, "<secret>") {
		t.Error(s)
	}
	hidden, err := Load([]byte("sources:\n  - url: http://h/x?token=geheim\n    http_headers: {X-Key: {values: [geheim]}, X-Other: {secrets: [geheim]}}\n    proxy_url: http://a:geheim@p\n    proxy_connect_header: {A: [geheim]}\n"+
		"clients: [{url: 'http://h?t=geheim', authorization: {credentials: geheim}, http_headers: {X-Key: {values: [geheim]}}}]"), false, Validators{})
	if err != nil {
		t.Fatal(err)
	}
	remote, err := Load([]byte("sources: [{}]\nremote_write:\n  - url: http://me:geheim@h/api/v1/write?token=geheim\n    headers: {X-Key: geheim}\n    basic_auth: {username: u, password: geheim}\n"), false, Validators{})
	if err != nil {
		t.Fatal(err)
	}
	if s := remote.String(); strings.Contains(s, "geheim") || !strings.Contains(s, "X-Key") || remote.Remotes[0].Headers["X-Key"] != "geheim" {
		t.Error(s)
	}
	if s := hidden.String(); strings.Contains(s, "geheim") || !strings.Contains(s, "X-Key") {
		t.Error(s)
	}
	if hidden.Sources[0].HTTP.HTTPHeaders.Headers["X-Key"].Values[0] != "geheim" || hidden.Clients[0].URL.RawQuery != "t=geheim" {
		t.Error("the values themselves are gone")
	}
	if c.Sources[0].HTTP.BasicAuth.Password != promconfig.Secret("geheim") {
		t.Error("the password itself is gone")
	}
}
