// Package config reads the configuration file: YAML into structs, with
// defaults, strict, validated. It builds no clients and knows none of the
// exporter's other packages.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/units"
	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"gopkg.in/yaml.v3"
)

// Config is the whole file.
type Config struct {
	Sources   []Source      `yaml:"sources"`
	Clients   []Client      `yaml:"clients,omitempty"`
	Remotes   []RemoteWrite `yaml:"remote_write,omitempty"`
	Formats   []Format      `yaml:"formats,omitempty"`
	Correlate Correlate     `yaml:"correlate"`
	Offenders Offenders     `yaml:"offenders"`
	Metrics   Metrics       `yaml:"metrics"`
	API       API           `yaml:"api"`
	Enrich    Enrich        `yaml:"enrich"`
	Privacy   Privacy       `yaml:"privacy"`
	State     State         `yaml:"state"`
}

// State is where the daemon keeps what it has come to.
type State struct {
	Path           string         `yaml:"path"`
	SaveInterval   model.Duration `yaml:"save_interval"`
	MaxTrackedKeys int            `yaml:"max_tracked_keys"`
}

// Source is one query of one Loki: where fail2ban's logs are read.
type Source struct {
	Name         string            `yaml:"name"`
	URL          promconfig.URL    `yaml:"url"`
	TenantID     string            `yaml:"tenant_id,omitempty"`
	Query        string            `yaml:"query"`
	HostLabels   []string          `yaml:"host_labels"`
	JailLabel    string            `yaml:"jail_label,omitempty"`
	Format       string            `yaml:"format"`
	Fields       []string          `yaml:"message_fields"`
	Jails        []string          `yaml:"jails,omitempty"`
	Timezone     string            `yaml:"timezone"`
	Timezones    map[string]string `yaml:"timezones,omitempty"`
	Lookback     model.Duration    `yaml:"lookback"`
	Lag          model.Duration    `yaml:"lag"`
	PollInterval model.Duration    `yaml:"poll_interval"`
	MaxLateness  model.Duration    `yaml:"max_lateness"`
	AuditWindow  model.Duration    `yaml:"audit_window"`
	AuditEvery   model.Duration    `yaml:"audit_interval"`
	PageSize     int               `yaml:"page_size"`
	MaxParallel  int               `yaml:"max_parallel"`
	MaxBuffer    Size              `yaml:"max_buffer"`
	MaxMessage   Size              `yaml:"max_message"`
	Timeout      model.Duration    `yaml:"timeout"`
	Backoff      Backoff           `yaml:"backoff_config"`

	HTTP promconfig.HTTPClientConfig `yaml:",inline"`
}

// Size is a number of bytes, like 64MB; as everywhere with Prometheus its units
// are powers of 1024.
type Size int64

// UnmarshalYAML reads a size.
func (z *Size) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	if err := unmarshal(&text); err != nil {
		return err
	}
	n, err := units.ParseBase2Bytes(text)
	if err != nil {
		return fmt.Errorf("not a valid size: %q; give one like 64MB", text)
	}
	*z = Size(n)
	return nil
}

// MarshalYAML writes a size.
func (z Size) MarshalYAML() (any, error) { return z.String(), nil }

func (z Size) String() string { return units.Base2Bytes(z).String() }

// Client is a Loki that findings are pushed to.
type Client struct {
	URL            promconfig.URL    `yaml:"url"`
	TenantID       string            `yaml:"tenant_id,omitempty"`
	Sources        []string          `yaml:"sources,omitempty"`
	BatchSize      int               `yaml:"batchsize"`
	BatchWait      model.Duration    `yaml:"batchwait"`
	QueueSize      Size              `yaml:"queue_size"`
	QueueWait      model.Duration    `yaml:"queue_wait"`
	Timeout        model.Duration    `yaml:"timeout"`
	Backoff        Backoff           `yaml:"backoff_config"`
	ExternalLabels map[string]string `yaml:"external_labels,omitempty"`

	HTTP promconfig.HTTPClientConfig `yaml:",inline"`
}

// Format is a user's own form of lines.
type Format struct {
	Name       string `yaml:"name"`
	Pattern    string `yaml:"pattern,omitempty"`
	Regexp     string `yaml:"regexp,omitempty"`
	TimeFormat string `yaml:"time_format"`
	Timezone   string `yaml:"timezone"`
}

// Backoff is how requests are tried again, in Promtail's words.
type Backoff struct {
	MinPeriod  model.Duration `yaml:"min_period"`
	MaxPeriod  model.Duration `yaml:"max_period"`
	MaxRetries int            `yaml:"max_retries"`
}

// Correlate holds the durations of the rules.
type Correlate struct {
	OrderWindow       model.Duration `yaml:"order_window"`
	LostSettle        model.Duration `yaml:"lost_settle"`
	FailedAgainWindow model.Duration `yaml:"failed_again_window"`
	PrematureWindow   model.Duration `yaml:"premature_window"`
	ExpiryTolerance   model.Duration `yaml:"expiry_tolerance"`
	ExpectedEndGrace  model.Duration `yaml:"expected_end_grace"`
	StopPause         model.Duration `yaml:"stop_pause"`
	BannedGrace       model.Duration `yaml:"banned_grace"`
}

// Offenders says who counts as what.
type Offenders struct {
	RepeatBans     int            `yaml:"repeat_bans"`
	PersistentBans int            `yaml:"persistent_bans"`
	Window         model.Duration `yaml:"window"`
	RecidiveJails  []string       `yaml:"recidive_jails"`
	Ignore         []Prefix       `yaml:"ignore"`
	Allow          []Prefix       `yaml:"allow"`
	Score          Score          `yaml:"score"`
	IPv4Prefix     int            `yaml:"ipv4_prefix"`
	IPv6Prefixes   []int          `yaml:"ipv6_prefixes"`
	Campaigns      Campaigns      `yaml:"campaigns"`
	Advice         Advice         `yaml:"advice"`
}

// Score holds the constants of the score.
type Score struct {
	HalfLife       model.Duration     `yaml:"half_life"`
	ReturnBonus    float64            `yaml:"return_bonus"`
	ReturnHalfLife model.Duration     `yaml:"return_half_life"`
	JailWeights    map[string]float64 `yaml:"jail_weights"`
	ManualWeight   float64            `yaml:"manual_weight"`
	HostFactor     float64            `yaml:"host_factor"`
	JailFactor     float64            `yaml:"jail_factor"`
	Saturation     float64            `yaml:"saturation"`
}

// Campaigns says what counts as one.
type Campaigns struct {
	Window   model.Duration `yaml:"window"`
	IDs      int            `yaml:"ids"`
	Networks int            `yaml:"networks"`
}

// Advice says when and how a ban time is suggested.
type Advice struct {
	Cover         float64 `yaml:"cover"`
	MinEnds       int     `yaml:"min_ends"`
	MinReoffences int     `yaml:"min_reoffences"`
	MinShare      float64 `yaml:"min_share"`
}

// Metrics bounds what /metrics shows.
type Metrics struct {
	Detail       string `yaml:"detail"`
	MaxHosts     int    `yaml:"max_hosts"`
	MaxJails     int    `yaml:"max_jails"`
	TopOffenders int    `yaml:"top_offenders"`
	TopNetworks  int    `yaml:"top_networks"`
	CompatF2B    bool   `yaml:"compat_f2b"`

	ForgetAfter model.Duration `yaml:"forget_after"`
	Exemplars   bool           `yaml:"exemplars"`
}

// Validators are checks that need what this package does not know.
type Validators struct {
	// Query says what is wrong with a LogQL query.
	Query func(string) error
	// Format says what is wrong with a format and which of its keys it is.
	Format func(Format) (key string, err error)
}

// AutoFormat names the forms that are known without a format.
const AutoFormat = "auto"

// Limits of what a source's lists may hold: the parser keeps them for each
// stream.
const (
	maxFields = 32
	maxJails  = 64
	maxName   = 256
)

// Limits of how much a source is asked for at once.
const (
	maxParallel = 32
	minBuffer   = Size(2 * units.MiB) // for each request
)

// The defaults.
var (
	DefaultBackoff = Backoff{
		MinPeriod: model.Duration(500 * time.Millisecond), MaxPeriod: model.Duration(5 * time.Minute), MaxRetries: 10,
	}
	// DefaultClientBackoff is short: what was not taken is offered again with
	// the next read, and reading must not wait for it.
	DefaultClientBackoff = Backoff{
		MinPeriod: model.Duration(500 * time.Millisecond), MaxPeriod: model.Duration(5 * time.Second), MaxRetries: 3,
	}
	DefaultSource = Source{
		Name: "loki", URL: mustURL("http://localhost:3100"), Query: `{job="fail2ban"}`,
		HostLabels: []string{"host", "hostname", "nodename", "node_name", "node", "instance"},
		Format:     AutoFormat, Fields: []string{"message", "msg", "log", "line", "MESSAGE", "body", "_entry"},
		Timezone: "auto", Lookback: days(30), Lag: model.Duration(10 * time.Second), PollInterval: model.Duration(15 * time.Second),
		MaxLateness: model.Duration(time.Hour), AuditWindow: days(7), AuditEvery: model.Duration(15 * time.Minute), MaxParallel: 2, MaxBuffer: Size(64 * units.MiB), MaxMessage: Size(4 * units.MiB), Timeout: model.Duration(time.Minute),
		Backoff: DefaultBackoff, HTTP: promconfig.DefaultHTTPClientConfig,
	}
	DefaultClient = Client{
		BatchSize: 1 << 20, BatchWait: model.Duration(time.Second), QueueSize: Size(64 * units.MiB), QueueWait: model.Duration(10 * time.Second),
		Timeout: model.Duration(10 * time.Second), Backoff: DefaultClientBackoff, HTTP: promconfig.DefaultHTTPClientConfig,
	}
	DefaultFormat    = Format{TimeFormat: "auto", Timezone: "auto"}
	DefaultCorrelate = Correlate{
		OrderWindow: model.Duration(2 * time.Second), LostSettle: model.Duration(2 * time.Minute), FailedAgainWindow: model.Duration(10 * time.Minute),
		PrematureWindow: days(1), ExpiryTolerance: model.Duration(time.Second), ExpectedEndGrace: model.Duration(5 * time.Minute),
		StopPause: model.Duration(2 * time.Second), BannedGrace: model.Duration(5 * time.Second),
	}
	DefaultOffenders = Offenders{
		RepeatBans: 2, PersistentBans: 5, Window: days(30), RecidiveJails: []string{"recidive"}, Ignore: []Prefix{}, Allow: []Prefix{},
		Score:      Score{HalfLife: days(7), ReturnBonus: 0.5, ReturnHalfLife: days(1), ManualWeight: 1, HostFactor: 1, JailFactor: 0.5, Saturation: 4},
		IPv4Prefix: 24, IPv6Prefixes: []int{48, 64},
		Campaigns: Campaigns{Window: model.Duration(20 * time.Minute), IDs: 5, Networks: 3},
		Advice:    Advice{Cover: 0.8, MinEnds: 20, MinReoffences: 5, MinShare: 0.1},
	}
	DefaultState   = State{SaveInterval: model.Duration(time.Minute), MaxTrackedKeys: 2_000_000}
	DefaultMetrics = Metrics{Detail: "auto", MaxHosts: 5000, MaxJails: 200, TopOffenders: 50, TopNetworks: 20, ForgetAfter: days(7)}
)

// Default is the configuration of an empty file, were one allowed.
func Default() Config {
	return Config{
		Sources: []Source{DefaultSource}, Correlate: DefaultCorrelate, Offenders: DefaultOffenders, Metrics: DefaultMetrics, Privacy: DefaultPrivacy,
		API: DefaultAPI, Enrich: DefaultEnrich, State: DefaultState,
	}
}

func days(n int) model.Duration { return model.Duration(time.Duration(n) * 24 * time.Hour) }

func mustURL(s string) promconfig.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return promconfig.URL{URL: u}
}

// LoadFile reads a configuration file. Relative paths inside it are relative
// to its folder.
func LoadFile(path string, expandEnv bool, v Validators) (*Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c, err := Load(text, expandEnv, v)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	c.setDirectory(filepath.Dir(path))
	return c, nil
}

// Load reads a configuration.
func Load(text []byte, expandEnv bool, v Validators) (*Config, error) {
	if expandEnv {
		text = expand(text, os.LookupEnv)
	}
	c := Default()
	c.Sources = nil
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&c); errors.Is(err, io.EOF) {
		return nil, errors.New("it is empty; it needs at least a list `sources` with one entry, see config.example.yaml")
	} else if err != nil {
		return nil, readable(err, text)
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("it holds more than one YAML document; give one")
	}
	if err := c.validate(v); err != nil {
		return nil, err
	}
	return &c, nil
}

// typeName is how yaml.v3 names the types of this program, which no user knows.
var typeName = regexp.MustCompile(` in type \w+\.(\w+)`)

// readable says what the YAML decoder found in one line and in the user's words.
func readable(err error, text []byte) error {
	var te *yaml.TypeError
	if !errors.As(err, &te) {
		return misread(err, text)
	}
	for i, e := range te.Errors {
		e = strings.ReplaceAll(e, "not found", "is not known")
		te.Errors[i] = typeName.ReplaceAllString(e, "")
	}
	return errors.New(strings.Join(te.Errors, "; "))
}

// misread names the place of a value that its type refused: a duration, a URL.
// Such an error knows neither line nor key, but it quotes the value.
func misread(err error, text []byte) error {
	what := err.Error()
	var ue *url.Error
	if errors.As(err, &ue) { // its words repeat the URL, and that may hold a password
		what = fmt.Sprintf("not a valid URL: %v", ue.Err)
	}
	if strings.HasPrefix(what, "not a valid duration string") {
		what += "; give one like 30s, 5m, 1h, 7d"
	}
	var root yaml.Node
	if yaml.Unmarshal(text, &root) != nil {
		return err
	}
	found := where(&root, "", func(value string) bool {
		return value != "" && (ue != nil && value == ue.URL || ue == nil && strings.Contains(err.Error(), strconv.Quote(value)))
	})
	switch {
	case found != "":
		return fmt.Errorf("%s: %s", found, what)
	case ue != nil:
		return errors.New(what)
	}
	return err
}

// where gives the path and the line of the first value like this; "" for none.
func where(n *yaml.Node, path string, like func(string) bool) string {
	if n.Kind == yaml.ScalarNode && like(n.Value) {
		return fmt.Sprintf("line %d: %s", n.Line, strings.TrimPrefix(path, "."))
	}
	for i, c := range n.Content {
		at := path
		switch {
		case n.Kind == yaml.SequenceNode:
			at = fmt.Sprintf("%s[%d]", path, i)
		case n.Kind == yaml.MappingNode && i%2 == 0:
			continue
		case n.Kind == yaml.MappingNode:
			at = path + "." + n.Content[i-1].Value
		}
		if found := where(c, at, like); found != "" {
			return found
		}
	}
	return ""
}

var variable = regexp.MustCompile(`\$?\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}`)

// expand replaces ${VAR} and ${VAR:-default}, as Loki does; $${VAR} stays as
// ${VAR}.
func expand(text []byte, lookup func(string) (string, bool)) []byte {
	return variable.ReplaceAllFunc(text, func(m []byte) []byte {
		if m[1] == '$' {
			return m[1:]
		}
		parts := variable.FindSubmatch(m)
		if v, ok := lookup(string(parts[1])); ok && v != "" {
			return []byte(v)
		}
		return parts[2]
	})
}

// UnmarshalYAML sets the defaults first.
func (s *Source) UnmarshalYAML(unmarshal func(any) error) error {
	*s = DefaultSource
	s.HostLabels = slices.Clone(DefaultSource.HostLabels)
	s.Fields = slices.Clone(DefaultSource.Fields)
	type plain Source
	return unmarshal((*plain)(s))
}

// UnmarshalYAML sets the defaults first.
func (c *Client) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultClient
	type plain Client
	return unmarshal((*plain)(c))
}

// UnmarshalYAML sets the defaults first.
func (f *Format) UnmarshalYAML(unmarshal func(any) error) error {
	*f = DefaultFormat
	type plain Format
	return unmarshal((*plain)(f))
}

// UnmarshalYAML sets the defaults first.
func (b *Backoff) UnmarshalYAML(unmarshal func(any) error) error {
	*b = DefaultBackoff
	type plain Backoff
	return unmarshal((*plain)(b))
}

// UnmarshalYAML sets the defaults first.
func (c *Correlate) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultCorrelate
	type plain Correlate
	return unmarshal((*plain)(c))
}

// UnmarshalYAML sets the defaults first.
func (o *Offenders) UnmarshalYAML(unmarshal func(any) error) error {
	*o = DefaultOffenders
	type plain Offenders
	return unmarshal((*plain)(o))
}

// UnmarshalYAML sets the defaults first.
func (m *Metrics) UnmarshalYAML(unmarshal func(any) error) error {
	*m = DefaultMetrics
	type plain Metrics
	return unmarshal((*plain)(m))
}

// UnmarshalYAML sets the defaults first.
func (s *State) UnmarshalYAML(unmarshal func(any) error) error {
	*s = DefaultState
	type plain State
	return unmarshal((*plain)(s))
}

func (c *Config) validate(v Validators) error {
	if len(c.Sources) == 0 {
		return errors.New("sources: there is none; name at least one Loki to read, see config.example.yaml")
	}
	if err := c.validateFormats(v); err != nil {
		return err
	}
	names := map[string]int{}
	for i := range c.Sources {
		at := fmt.Sprintf("sources[%d]", i)
		s := &c.Sources[i]
		if err := s.validate(at, v); err != nil {
			return err
		}
		if first, ok := names[s.Name]; ok {
			return fmt.Errorf("%s.name: %q is the name of sources[%d] already; each source needs its own", at, s.Name, first)
		}
		names[s.Name] = i
		if s.Format != AutoFormat && c.FormatNamed(s.Format) == nil {
			return fmt.Errorf("%s.format: %q is no format; give auto, or the name of an entry of `formats`", at, s.Format)
		}
	}
	for i := range c.Clients {
		if err := c.Clients[i].validate(fmt.Sprintf("clients[%d]", i), names); err != nil {
			return err
		}
	}
	for i := range c.Remotes {
		at := fmt.Sprintf("remote_write[%d]", i)
		if err := c.Remotes[i].validate(at); err != nil {
			return err
		}
		if c.Remotes[i].History && c.State.Path == "" {
			return fmt.Errorf("%s.history: it needs state.path, where it is remembered that the past was written", at)
		}
	}
	return errors.Join(c.Offenders.validate(), c.Metrics.validate(), c.Privacy.validate(), c.API.validate(), c.Enrich.validate(), c.State.validate())
}

// FormatNamed gives the format of a name, nil for none.
func (c *Config) FormatNamed(name string) *Format {
	for i := range c.Formats {
		if c.Formats[i].Name == name {
			return &c.Formats[i]
		}
	}
	return nil
}

func (c *Config) validateFormats(v Validators) error {
	for i := range c.Formats {
		f, at := &c.Formats[i], fmt.Sprintf("formats[%d]", i)
		switch {
		case f.Name == "" || len(f.Name) > maxName:
			return fmt.Errorf("%s.name: give a name of 1 to %d bytes, for `format` of a source", at, maxName)
		case f.Name == AutoFormat:
			return fmt.Errorf("%s.name: %q means the forms that are known; give another name", at, AutoFormat)
		case c.FormatNamed(f.Name) != f:
			return fmt.Errorf("%s.name: %q is the name of another format already; each needs its own", at, f.Name)
		case f.Pattern != "" && f.Regexp != "":
			return fmt.Errorf("%s.regexp: there is a pattern too; give one of them", at)
		}
		if err := checkZone(f.Timezone); err != nil {
			return fmt.Errorf("%s.timezone: %w", at, err)
		}
		if v.Format == nil {
			continue
		}
		if key, err := v.Format(*f); err != nil {
			return fmt.Errorf("%s.%s: %w", at, key, err)
		}
	}
	return nil
}

// validateLines checks what says how a source's lines are read.
func (s *Source) validateLines(at string) error {
	if len(s.Fields) == 0 || len(s.Fields) > maxFields || slices.Contains(s.Fields, "") {
		return fmt.Errorf("%s.message_fields: give 1 to %d names of fields; leave the key away for the usual ones", at, maxFields)
	}
	if len(s.Jails) > maxJails {
		return fmt.Errorf("%s.jails: %d names; give at most %d: only jails with \"] \" in their names need it", at, len(s.Jails), maxJails)
	}
	for i, jail := range s.Jails {
		if jail == "" || len(jail) > maxName {
			return fmt.Errorf("%s.jails[%d]: a jail's name has 1 to %d bytes", at, i, maxName)
		}
	}
	return nil
}

// leastMessage has room for a line of the largest size that Loki takes.
const leastMessage = Size(units.MiB)

// validateReading checks how much is asked for at once.
func (s *Source) validateReading(at string) error {
	if s.PageSize < 0 {
		return fmt.Errorf("%s.page_size: %d; give at least 1 (Loki's default limit is 5000), or 0 for what the server allows", at, s.PageSize)
	}
	if s.MaxParallel < 1 || s.MaxParallel > maxParallel {
		return fmt.Errorf("%s.max_parallel: %d; give 1 to %d requests at once", at, s.MaxParallel, maxParallel)
	}
	if least := minBuffer * Size(s.MaxParallel); s.MaxBuffer < least {
		return fmt.Errorf("%s.max_buffer: %s; %d requests at once need at least %s", at, s.MaxBuffer, s.MaxParallel, least)
	}
	if s.MaxMessage < leastMessage {
		return fmt.Errorf("%s.max_message: %s; give at least %s, as large as Loki's server.grpc_server_max_recv_msg_size", at, s.MaxMessage, leastMessage)
	}
	return nil
}

func (s *Source) validate(at string, v Validators) error {
	if s.Name == "" {
		return fmt.Errorf("%s.name: it is empty; leave the key away for %q", at, DefaultSource.Name)
	}
	if err := checkURL(at, s.URL); err != nil {
		return err
	}
	if v.Query != nil {
		if err := v.Query(s.Query); err != nil {
			return fmt.Errorf("%s.query: %w", at, err)
		}
	}
	if len(s.HostLabels) == 0 {
		return fmt.Errorf("%s.host_labels: the list is empty; name the labels that may hold the host", at)
	}
	if err := s.validateLines(at); err != nil {
		return err
	}
	if err := checkZone(s.Timezone); err != nil {
		return fmt.Errorf("%s.timezone: %w", at, err)
	}
	for _, host := range slices.Sorted(maps.Keys(s.Timezones)) {
		if err := checkZone(s.Timezones[host]); err != nil {
			return fmt.Errorf("%s.timezones.%s: %w", at, host, err)
		}
	}
	if err := s.validateReading(at); err != nil {
		return err
	}
	for _, d := range []struct {
		key string
		is  model.Duration
	}{{"lookback", s.Lookback}, {"poll_interval", s.PollInterval}, {"timeout", s.Timeout}, {"audit_interval", s.AuditEvery}} {
		if d.is <= 0 {
			return fmt.Errorf("%s.%s: it must be longer than 0", at, d.key)
		}
	}
	if err := s.Backoff.validate(at); err != nil {
		return err
	}
	return located(at, s.HTTP.Validate())
}

func (c *Client) validate(at string, sources map[string]int) error {
	if c.URL.URL == nil {
		return fmt.Errorf("%s.url: it is missing; give the Loki to push findings to, like http://localhost:3100", at)
	}
	if err := checkURL(at, c.URL); err != nil {
		return err
	}
	for _, name := range c.Sources {
		if _, ok := sources[name]; !ok {
			return fmt.Errorf("%s.sources: %q is no source; name entries of `sources`", at, name)
		}
	}
	if c.BatchSize < 1024 {
		return fmt.Errorf("%s.batchsize: %d bytes; give at least 1024", at, c.BatchSize)
	}
	if c.QueueSize < Size(c.BatchSize) {
		return fmt.Errorf("%s.queue_size: %s; it must hold a batch, of %d bytes", at, c.QueueSize, c.BatchSize)
	}
	if c.Timeout <= 0 {
		return fmt.Errorf("%s.timeout: it must be longer than 0", at)
	}
	for _, label := range slices.Sorted(maps.Keys(c.ExternalLabels)) {
		if !model.LegacyValidation.IsValidLabelName(label) {
			return fmt.Errorf("%s.external_labels: %q is no label name", at, label)
		}
	}
	if err := c.Backoff.validate(at); err != nil {
		return err
	}
	return located(at, c.HTTP.Validate())
}

func (b *Backoff) validate(at string) error {
	if b.MinPeriod <= 0 || b.MaxPeriod < b.MinPeriod {
		return fmt.Errorf("%s.backoff_config: min_period must be longer than 0 and not longer than max_period", at)
	}
	if b.MaxRetries < 0 {
		return fmt.Errorf("%s.backoff_config.max_retries: %d; give 0 for no end, or a number of tries", at, b.MaxRetries)
	}
	return nil
}

func (o *Offenders) validate() error {
	if o.RepeatBans < 2 {
		return fmt.Errorf("offenders.repeat_bans: %d; who comes back was banned at least 2 times", o.RepeatBans)
	}
	if o.PersistentBans < o.RepeatBans {
		return fmt.Errorf("offenders.persistent_bans: %d; it must not be less than repeat_bans, %d", o.PersistentBans, o.RepeatBans)
	}
	if o.Window <= 0 {
		return errors.New("offenders.window: it must be longer than 0")
	}
	if o.IPv4Prefix < 1 || o.IPv4Prefix > 32 {
		return fmt.Errorf("offenders.ipv4_prefix: %d; give the length of a network, 1 to 32", o.IPv4Prefix)
	}
	for i, bits := range o.IPv6Prefixes {
		if bits < 1 || bits > 128 {
			return fmt.Errorf("offenders.ipv6_prefixes[%d]: %d; give the length of a network, 1 to 128", i, bits)
		}
	}
	return errors.Join(o.Score.validate(o.RecidiveJails), o.Campaigns.validate(), o.Advice.validate())
}

func (s *Score) validate(recidive []string) error {
	if s.HalfLife <= 0 || s.ReturnHalfLife <= 0 {
		return errors.New("offenders.score: half_life and return_half_life must be longer than 0")
	}
	for _, n := range []struct {
		key string
		is  float64
	}{{"return_bonus", s.ReturnBonus}, {"manual_weight", s.ManualWeight}, {"host_factor", s.HostFactor}, {"jail_factor", s.JailFactor}} {
		if !(n.is >= 0 && n.is <= maxFactor) {
			return fmt.Errorf("offenders.score.%s: %v; give 0 to %d", n.key, n.is, maxFactor)
		}
	}
	if !(s.Saturation > 0 && s.Saturation <= maxFactor) {
		return fmt.Errorf("offenders.score.saturation: %v; give a number above 0, up to %d", s.Saturation, maxFactor)
	}
	for _, jail := range slices.Sorted(maps.Keys(s.JailWeights)) {
		if w := s.JailWeights[jail]; !(w >= 0 && w <= maxFactor) {
			return fmt.Errorf("offenders.score.jail_weights.%s: %v; give 0 to %d", jail, w, maxFactor)
		}
		if slices.Contains(recidive, jail) && s.JailWeights[jail] > 0 {
			return fmt.Errorf("offenders.score.jail_weights.%s: it is one of recidive_jails, whose bans follow from others; take it out of there to let it weigh", jail)
		}
	}
	return nil
}

// maxFactor bounds weights and factors: more would only drown all else.
const maxFactor = 1000

func (c *Campaigns) validate() error {
	if w := time.Duration(c.Window); w < time.Minute || w > 12*time.Hour {
		return fmt.Errorf("offenders.campaigns.window: %v; give 1m to 12h", c.Window)
	}
	if c.IDs < 2 || c.Networks < 1 {
		return fmt.Errorf("offenders.campaigns: %d ids from %d networks; give at least 2 ids from 1", c.IDs, c.Networks)
	}
	return nil
}

func (a *Advice) validate() error {
	for _, n := range []struct {
		key string
		is  float64
	}{{"cover", a.Cover}, {"min_share", a.MinShare}} {
		if !(n.is > 0 && n.is <= 1) {
			return fmt.Errorf("offenders.advice.%s: %v; give a share above 0, up to 1", n.key, n.is)
		}
	}
	if a.MinEnds < 1 || a.MinReoffences < 1 {
		return errors.New("offenders.advice: min_ends and min_reoffences must be at least 1")
	}
	return nil
}

func (m *Metrics) validate() error {
	if !slices.Contains([]string{"auto", "fleet", "host", "jail"}, m.Detail) {
		return fmt.Errorf("metrics.detail: %q; give auto, fleet, host or jail", m.Detail)
	}
	if m.MaxHosts < 1 || m.MaxJails < 1 || m.TopOffenders < 0 || m.TopNetworks < 0 {
		return errors.New("metrics: max_hosts and max_jails must be at least 1, top_offenders and top_networks at least 0")
	}
	return nil
}

func (s *State) validate() error {
	if s.SaveInterval <= 0 {
		return errors.New("state.save_interval: it must be longer than 0; leave state.path away to keep no state")
	}
	if s.MaxTrackedKeys < minTrackedKeys {
		return fmt.Errorf("state.max_tracked_keys: %d; give at least %d: a key takes about 500 bytes", s.MaxTrackedKeys, minTrackedKeys)
	}
	return nil
}

// minTrackedKeys is what even a small fleet needs to tell anything.
const minTrackedKeys = 1000

func checkURL(at string, u promconfig.URL) error {
	if u.URL == nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%s.url: %q is not a URL of a server; give one like http://localhost:3100", at, ShownURL(u))
	}
	return nil
}

func checkZone(name string) error {
	if name == "auto" || name == "" {
		return nil
	}
	if _, err := time.LoadLocation(name); err != nil {
		return fmt.Errorf("%q is not a time zone; give auto, UTC, Local or a name like Europe/Berlin", name)
	}
	return nil
}

// located names the YAML path of an error.
func located(at string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", at, err)
}

func (c *Config) setDirectory(dir string) {
	c.Enrich.CountryFile = promconfig.JoinDir(dir, c.Enrich.CountryFile)
	c.Enrich.ASNFile = promconfig.JoinDir(dir, c.Enrich.ASNFile)
	c.State.Path = promconfig.JoinDir(dir, c.State.Path)
	for i := range c.Sources {
		c.Sources[i].HTTP.SetDirectory(dir)
	}
	for i := range c.Clients {
		c.Clients[i].HTTP.SetDirectory(dir)
	}
	for i := range c.Remotes {
		c.Remotes[i].HTTP.SetDirectory(dir)
	}
	c.Privacy.KeyFile = promconfig.JoinDir(dir, c.Privacy.KeyFile)
}
