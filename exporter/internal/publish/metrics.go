package publish

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// View is the state that /metrics shows.
type View struct {
	At        time.Time // now, on the clock of whoever made the view
	Sources   []SourceReport
	Offenders []offender.Row     // the top K, best first
	Tracked   int                // all offenders
	Repeat    int                // all repeat offenders
	Networks  []offender.Network // the top K, best first
	Jails     []JailOutlook
	Exemplars *Exemplars        // nil for none
	Countries map[string]uint64 // true bans by country, empty for unknown; nil where none is told
	// CaughtUp says that the back-fill is done. Before, domain metrics would
	// show the past as if it were happening now, and are not served (rule 10).
	CaughtUp bool
}

// JailOutlook is what is to be expected of those whom a jail banned, on all
// hosts of a source.
type JailOutlook struct {
	Source, Jail string
	// Survival is the share of those whose ban ended that have not come back
	// after each of offender.Marks.
	Survival [4]correlate.Maybe[float64]
	// Suggested is the ban time that is suggested, negative for a permanent one.
	Suggested correlate.Maybe[time.Duration]
}

// within names offender.Marks, as the label has them.
var within = [4]string{"1h", "1d", "7d", "30d"}

// How fine the series are: MetricsOptions.Detail.
const (
	DetailFleet = "fleet" // neither host nor jail
	DetailHost  = "host"
	DetailJail  = "jail"
)

// autoDetailHosts is up to how many hosts jails are told apart by default.
const autoDetailHosts = 100

// staleHost is how long a silent host's last line is shown.
const staleHost = 7 * 24 * time.Hour

// otherLabel is the host or jail of what did not fit.
const otherLabel = "other"

// MetricsOptions bound the number of series.
type MetricsOptions struct {
	// Detail is one of the constants above. Empty means jail up to 100 hosts,
	// then host, and never back, so that no counter jumps to and fro.
	Detail string
	// MaxHosts and MaxJails bound the values of the labels `host` and `jail`:
	// those with the oldest first lines are in, the rest goes into `other`. 0 is
	// no bound.
	MaxHosts, MaxJails int
	// PastOnly serves what a report tells alone: the ranking of a time that is
	// past is not known.
	PastOnly bool
	// NameSource adds the label `source`; set with more than one source.
	NameSource bool
	// ForgetAfter is after how long without a line the series of a host go, and
	// those of a jail that does not run. 0 keeps all.
	ForgetAfter time.Duration
}

// Metrics gathers the domain metrics of the last view. A scrape gets what Set
// made ready; it waits for nothing and makes nothing.
type Metrics struct {
	o    MetricsOptions
	self *Self

	mu    sync.Mutex // guards what stays from one Set to the next
	auto  string
	hosts admission
	jails admission

	served atomic.Pointer[families]
}

// NewMetrics makes the gatherer, which serves nothing before the first Set.
// It tells self, where given, how many series it serves.
func NewMetrics(o MetricsOptions, self *Self) *Metrics {
	m := &Metrics{o: o, self: self, auto: DetailJail, hosts: newAdmission(o.MaxHosts), jails: newAdmission(o.MaxJails)}
	m.served.Store(&families{})
	return m
}

// Gather gives the series of the last view. Nobody may change them.
func (m *Metrics) Gather() ([]*dto.MetricFamily, error) { return m.served.Load().plain, nil }

// Native gives them with the native histograms of each host and jail, which have
// a place in protobuf and in remote write alone.
func (m *Metrics) Native() prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return m.served.Load().native, nil })
}

// Set makes a view the one that is served.
func (m *Metrics) Set(v *View) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &page{m: m, view: v, series: make([]seriesSet, len(domain)), native: make([]seriesSet, len(domain))}
	if v.CaughtUp {
		p.detail = m.detail(v)
		p.fill(v)
	}
	m.served.Store(p.families())
}

func (m *Metrics) detail(v *View) string {
	if m.o.Detail != "" {
		return m.o.Detail
	}
	hosts := 0
	for _, s := range v.Sources {
		hosts += len(s.Report.Hosts)
	}
	if hosts > autoDetailHosts {
		m.auto = DetailHost
	}
	return m.auto
}

// label makes a text fit to be a label's value: short, valid, and harmless to
// whoever reads the page in a terminal.
func label(s string) string { return limited(visible(valid(s))) }

// emit is how a metric gives one value, with those of its own labels.
type emit func(value float64, own ...string)

// metric is one domain metric. One of its functions is set and says what it
// is made of: each jail, each host, the view, or each jail over all hosts.
type metric struct {
	name, help string
	kind       prometheus.ValueType
	labels     []string // its own, after source, host and jail
	single     bool     // one host's or jail's own value, which cannot be added to another's
	jail       func(emit, *correlate.JailReport)
	host       func(emit, *correlate.HostReport, *View)
	view       func(emit, *View)
	outlook    func(emit, *JailOutlook)                        // over all hosts: carries `jail` alone
	histogram  func(*correlate.JailReport) correlate.Histogram // classic buckets carry `jail` alone, native ones `host` too
}

func (d *metric) labelNames(source bool) []string {
	var l []string
	if source && d.view == nil {
		l = append(l, "source")
	}
	switch {
	case d.histogram != nil, d.outlook != nil:
		l = append(l, "jail")
	case d.jail != nil:
		l = append(l, "host", "jail")
	case d.host != nil:
		l = append(l, "host")
	}
	return append(l, d.labels...)
}

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

// domain is every metric of what the log says, in the order of the interface.
var domain = []metric{
	{
		name: "fail2ban_log_events_total", kind: counter, labels: []string{"verb"}, jail: each(correlate.Verbs, func(c *correlate.Counts) []uint64 { return c.Verbs[:] }),
		help: "Lines of the log by their verb, as they stand there.",
	},
	{
		name: "fail2ban_failures_total", kind: counter, jail: count(func(c *correlate.Counts) uint64 { return c.Failures }),
		help: "Failures, each counted once.",
	},
	{
		name: "fail2ban_bans_total", kind: counter, labels: []string{"origin"}, jail: each(correlate.BanOrigins, func(c *correlate.Counts) []uint64 { return c.Bans[:] }),
		help: "True bans by origin, without restored and re-read ones.",
	},
	{
		name: "fail2ban_restored_bans_total", kind: counter, labels: []string{"cause"}, jail: each(correlate.RestoreCauses, func(c *correlate.Counts) []uint64 { return c.Restored[:] }),
		help: "Bans that were put back in force, by what had lifted them.",
	},
	{
		name: "fail2ban_reread_bans_total", kind: counter, jail: count(func(c *correlate.Counts) uint64 { return c.Reread }),
		help: "Bans for an offence already counted, because the watched log was read again.",
	},
	{
		name: "fail2ban_unbans_total", kind: counter, labels: []string{"cause"}, jail: each(correlate.UnbanCauses, func(c *correlate.Counts) []uint64 { return c.Unbans[:] }),
		help: "Unbans by cause.",
	},
	{
		name: "fail2ban_banned_ips", kind: gauge, jail: size(func(j *correlate.JailReport) int { return j.BannedNow }),
		help: "Addresses, subnets and ids banned now.",
	},
	{
		name: "fail2ban_unprotected_ips", kind: gauge, jail: size(func(j *correlate.JailReport) int { return j.Unprotected }),
		help: "Bans lifted by a stop and not yet restored, though their time is not over.",
	},
	{
		name: "fail2ban_lost_bans_total", kind: counter, jail: count(func(c *correlate.Counts) uint64 { return c.Lost }),
		help: "Bans that a stop lifted and no start restored, though their time was not over.",
	},
	{
		name: gapMetric, histogram: func(j *correlate.JailReport) correlate.Histogram { return j.GapSeconds },
		help: "How long bans were lifted between a stop and their restore, in seconds.",
	},
	{
		name: "fail2ban_gap_failures_total", kind: counter, jail: count(func(c *correlate.Counts) uint64 { return c.GapFailures }),
		help: "Failures while the server or the jail was down, whoever failed.",
	},
	{
		name: "fail2ban_server_restarts_total", kind: counter, labels: []string{"kind"}, host: restarts,
		help: "Restarts of the server by how the run before had ended.",
	},
	{
		name: "fail2ban_server_start_timestamp_seconds", kind: gauge, single: true, host: func(e emit, h *correlate.HostReport, _ *View) { e.time(h.Started) },
		help: "When the server's present run started, in seconds since the epoch.",
	},
	{
		name: "fail2ban_server_running", kind: gauge, single: true, host: running,
		help: "1 if the server runs as far as its log says, else 0.",
	},
	{
		name: "fail2ban_server_info", kind: gauge, labels: []string{"version"}, single: true, host: info,
		help: "Always 1, with the version that the server logged.",
	},
	{
		name: "fail2ban_host_last_line_timestamp_seconds", kind: gauge, single: true, host: lastLine,
		help: "Time of the host's newest line in seconds since the epoch, for seven days after it fell silent.",
	},
	{
		name: "fail2ban_jail_bantime_seconds", kind: gauge, single: true, jail: banTime,
		help: "The jail's ban time in seconds, -1 if permanent.",
	},
	{
		name: "fail2ban_jail_findtime_seconds", kind: gauge, single: true, jail: findTime,
		help: "Within how many seconds the jail counts failures.",
	},
	{
		name: "fail2ban_jail_maxretry", kind: gauge, single: true, jail: maxRetry,
		help: "How many failures make the jail ban.",
	},
	{
		name: "fail2ban_reoffences_total", kind: counter, jail: count(func(c *correlate.Counts) uint64 { return c.Reoffences }),
		help: "True bans of an id whose ban before in the same jail had truly ended.",
	},
	{
		name: reoffenceMetric, histogram: func(j *correlate.JailReport) correlate.Histogram { return j.Reoffence },
		help: "Time from a ban's true end to the next true ban of the same id, in seconds.",
	},
	{
		name: "fail2ban_reoffence_survival_ratio", kind: gauge, labels: []string{"within"}, single: true, outlook: survival,
		help: "Share of those whose ban truly ended that are not banned again within a time (Kaplan-Meier).",
	},
	{
		name: "fail2ban_suggested_bantime_seconds", kind: gauge, single: true, outlook: suggested,
		help: "Ban time suggested for the jail, in seconds: the present one where it is right, -1 if permanent.",
	},
	{
		name: "fail2ban_premature_unbans_total", kind: counter, jail: count(func(c *correlate.Counts) uint64 { return c.PrematureUnbans }),
		help: "Manual unbans after which the id was soon banned again.",
	},
	{
		name: "fail2ban_failures_while_banned_total", kind: counter, jail: count(func(c *correlate.Counts) uint64 { return c.FailuresWhileBanned }),
		help: "Failures of ids while they were banned, which tell of bans that do not hold.",
	},
	{
		name: "fail2ban_action_errors_total", kind: counter, jail: count(func(c *correlate.Counts) uint64 { return c.ActionErrors }),
		help: "Errors of ban and unban actions.",
	},
	{name: "fail2ban_offender_score", kind: gauge, labels: []string{"ip"}, single: true, view: top(func(e emit, o *offender.Row, ip string) {
		if o.Scored {
			e(o.Score, ip)
		}
	}), help: "Score of an offender among the top ones."},
	{
		name: "fail2ban_offender_bans", kind: gauge, labels: []string{"ip"}, single: true, view: top(func(e emit, o *offender.Row, ip string) { e(float64(o.Bans), ip) }),
		help: "True bans of an offender among the top ones, over all hosts and jails.",
	},
	{
		name: "fail2ban_offender_hosts", kind: gauge, labels: []string{"ip"}, single: true, view: top(func(e emit, o *offender.Row, ip string) { e(float64(o.Hosts), ip) }),
		help: "Hosts that banned an offender among the top ones.",
	},
	{
		name: "fail2ban_offender_jails", kind: gauge, labels: []string{"ip"}, single: true, view: top(func(e emit, o *offender.Row, ip string) { e(float64(o.Jails), ip) }),
		help: "Jails that banned an offender among the top ones.",
	},
	{
		name: "fail2ban_offender_last_ban_timestamp_seconds", kind: gauge, labels: []string{"ip"}, single: true, view: top(func(e emit, o *offender.Row, ip string) { e.time(o.LastBan, ip) }),
		help: "When an offender among the top ones was last truly banned, in seconds since the epoch.",
	},
	{
		name: "fail2ban_offender_info", kind: gauge, labels: []string{"ip", "network", "country", "asn"}, single: true, view: top(func(e emit, o *offender.Row, ip string) {
			e(1, ip, label(o.Network), label(o.Country), label(o.ASN))
		}), help: "Always 1, with where an offender among the top ones comes from.",
	},
	{
		name: "fail2ban_offender_network_score", kind: gauge, labels: []string{"network"}, single: true, view: networks,
		help: "Score of a network among the top ones, as if all its offenders were one.",
	},
	{
		name: "fail2ban_country_bans_total", kind: counter, labels: []string{"country"}, view: countries,
		help: "True bans by the country they came from, without those of recidive jails.",
	},
	{
		name: "fail2ban_offenders", kind: gauge, view: func(e emit, v *View) { e(float64(v.Tracked)) },
		help: "Ids with a ban that are tracked, not only the top ones.",
	},
	{
		name: "fail2ban_repeat_offenders", kind: gauge, view: func(e emit, v *View) { e(float64(v.Repeat)) },
		help: "Tracked ids that were truly banned again and again.",
	},
}

// count makes the jail function of a counter.
func count(n func(*correlate.Counts) uint64) func(emit, *correlate.JailReport) {
	return func(e emit, j *correlate.JailReport) { e(float64(n(&j.Counts))) }
}

// each makes the jail function of counters over a closed set.
func each[S ~string](set []S, ns func(*correlate.Counts) []uint64) func(emit, *correlate.JailReport) {
	return func(e emit, j *correlate.JailReport) {
		for i, n := range ns(&j.Counts) {
			e(float64(n), string(set[i]))
		}
	}
}

// size makes the jail function of a number of ids.
func size(n func(*correlate.JailReport) int) func(emit, *correlate.JailReport) {
	return func(e emit, j *correlate.JailReport) { e(float64(n(j))) }
}

// top makes the view function of a value of each top offender.
func top(one func(e emit, o *offender.Row, ip string)) func(emit, *View) {
	return func(e emit, v *View) {
		for i := range v.Offenders {
			one(e, &v.Offenders[i], label(v.Offenders[i].ID))
		}
	}
}

// time gives a known time in seconds since the epoch, and nothing for an unknown one.
func (e emit) time(t time.Time, own ...string) {
	if !t.IsZero() {
		e(float64(t.UnixMilli())/1000, own...)
	}
}

func networks(e emit, v *View) {
	for i := range v.Networks {
		e(v.Networks[i].Score, label(v.Networks[i].Network))
	}
}

// unknownCountry is the country of what no file knows, and of ids that are no
// addresses.
const unknownCountry = "unknown"

func countries(e emit, v *View) {
	for _, country := range slices.Sorted(maps.Keys(v.Countries)) {
		e(float64(v.Countries[country]), cmp.Or(label(country), unknownCountry))
	}
}

func survival(e emit, j *JailOutlook) {
	for i, s := range j.Survival {
		if s.OK {
			e(s.V, within[i])
		}
	}
}

func suggested(e emit, j *JailOutlook) {
	switch {
	case j.Suggested.OK && j.Suggested.V < 0:
		e(-1)
	case j.Suggested.OK:
		e(j.Suggested.V.Seconds())
	}
}

func restarts(e emit, h *correlate.HostReport, _ *View) {
	for _, kind := range restartKinds {
		e(float64(h.Restarts[kind]), kind)
	}
}

func running(e emit, h *correlate.HostReport, _ *View) {
	switch {
	case h.Running.OK && h.Running.V:
		e(1)
	case h.Running.OK:
		e(0)
	}
}

func info(e emit, h *correlate.HostReport, _ *View) {
	if h.Version != "" {
		e(1, label(h.Version))
	}
}

func lastLine(e emit, h *correlate.HostReport, v *View) {
	if v.At.IsZero() || v.At.Sub(h.LastLine) <= staleHost {
		e.time(h.LastLine)
	}
}

func banTime(e emit, j *correlate.JailReport) {
	switch {
	case j.BanTime.OK && j.BanTime.V < 0:
		e(-1)
	case j.BanTime.OK:
		e(j.BanTime.V.Seconds())
	}
}

func findTime(e emit, j *correlate.JailReport) {
	if j.FindTime.OK {
		e(j.FindTime.V.Seconds())
	}
}

func maxRetry(e emit, j *correlate.JailReport) {
	if j.MaxRetry.OK {
		e(float64(j.MaxRetry.V))
	}
}

// page is one view on its way to series.
type page struct {
	m      *Metrics
	view   *View
	detail string
	series []seriesSet // of each metric of domain
	native []seriesSet // of each of its histograms

	// of the host or jail that is being put on the page
	since time.Time
	gone  bool
}

// seriesSet is a metric's series by their labels, in the order they came.
type seriesSet struct {
	at  map[string]int
	all []series
}

type series struct {
	labels    []string
	value     float64
	histogram correlate.Histogram
	since     time.Time // the first line of the first of those that are in it
	alive     bool      // one of them has not gone
}

// take notes whose values come next.
func (p *page) take(s *series) {
	if s.since.IsZero() || p.since.Before(s.since) {
		s.since = p.since
	}
	s.alive = s.alive || !p.gone
}

// silent tells that nothing has been heard for too long; 0 is never.
func silent(v *View, lastLine time.Time, forget time.Duration) bool {
	return forget > 0 && !v.At.IsZero() && v.At.Sub(lastLine) > forget
}

// jailGone tells a jail that does not run, as far as the log says, and of which
// nothing has been heard for too long.
func jailGone(v *View, j *correlate.JailReport, forget time.Duration) bool {
	return !j.Running.V && silent(v, j.LastLine, forget)
}

// limited counts those that went into `other`.
func (p *page) limited(refused int) {
	if p.m.self != nil {
		p.m.self.SeriesLimited.Add(float64(refused))
	}
}

// get finds or makes the series with these labels; isNew says which.
func (s *seriesSet) get(labels []string) (one *series, isNew bool) {
	key := strings.Join(labels, "\xff") // in no valid text
	i, ok := s.at[key]
	if !ok {
		if s.at == nil {
			s.at = map[string]int{}
		}
		i = len(s.all)
		s.at[key] = i
		s.all = append(s.all, series{labels: labels})
	}
	return &s.all[i], !ok
}

func (p *page) fill(v *View) {
	hosts, jails := census(v, p.m.o.ForgetAfter)
	p.limited(p.m.hosts.review(hosts) + p.m.jails.review(jails))
	for i := range v.Sources {
		src := &v.Sources[i]
		for k := range src.Report.Hosts {
			p.host(src.Name, &src.Report.Hosts[k], v)
		}
	}
	p.since, p.gone = firstLine(v), false
	for i := range domain {
		if d := &domain[i]; d.view != nil && !p.m.o.PastOnly {
			d.view(p.emit(i), v)
		}
	}
	for i := range v.Jails {
		p.outlook(&v.Jails[i])
	}
}

// firstLine is the first one of all hosts.
func firstLine(v *View) (first time.Time) {
	for i := range v.Sources {
		for k := range v.Sources[i].Report.Hosts {
			if t := v.Sources[i].Report.Hosts[k].FirstLine; first.IsZero() || t.Before(first) {
				first = t
			}
		}
	}
	return first
}

// outlook shows a jail that has series of its own: what is told of several
// cannot be added up.
func (p *page) outlook(j *JailOutlook) {
	name, at := p.m.jails.place(j.Jail, j.Jail)
	for i := range domain {
		if d := &domain[i]; at == ownPlace && d.outlook != nil {
			d.outlook(p.emit(i, p.labels(j.Source, name)...), j)
		}
	}
}

func (p *page) host(source string, h *correlate.HostReport, v *View) {
	gone := silent(v, h.LastLine, p.m.o.ForgetAfter)
	p.since, p.gone = h.FirstLine, gone
	name, at := p.m.hosts.place(hostKey(source, h.Host), h.Host)
	if p.detail == DetailFleet {
		name, at = "", inOther
	}
	for i := range domain {
		if d := &domain[i]; d.host != nil && (at == ownPlace || at == inOther && !d.single) {
			d.host(p.emit(i, p.labels(source, name)...), h, v)
		}
	}
	for k := range h.Jails {
		j := &h.Jails[k]
		p.since, p.gone = j.FirstLine, gone || jailGone(v, j, p.m.o.ForgetAfter)
		p.jail(source, name, at, j)
	}
}

// jail puts a jail of a host on the page. What nowhere has a place is in no series
// but those of all hosts.
func (p *page) jail(source, host string, hostAt place, j *correlate.JailReport) {
	name, at := p.m.jails.place(j.Jail, j.Jail)
	shown, shownAt := name, at
	if p.detail != DetailJail {
		shown, shownAt = "", inOther
	}
	own, somewhere := hostAt == ownPlace && shownAt == ownPlace, hostAt != nowhere && shownAt != nowhere
	for i := range domain {
		switch d := &domain[i]; {
		case d.histogram != nil:
			h := d.histogram(j)
			if at != nowhere {
				p.add(&p.series[i], p.labels(source, name), &h)
			}
			if somewhere {
				p.add(&p.native[i], p.labels(source, host, shown), &h)
			}
		case d.jail != nil && (own || somewhere && !d.single):
			d.jail(p.emit(i, p.labels(source, host, shown)...), j)
		}
	}
}

// add adds a jail's histogram to that of the labels.
func (p *page) add(to *seriesSet, labels []string, h *correlate.Histogram) {
	one, _ := to.get(labels)
	p.take(one)
	one.histogram.Add(h)
}

// labels puts the source first where it is told.
func (p *page) labels(source string, rest ...string) []string {
	if p.m.o.NameSource {
		return append([]string{label(source)}, rest...)
	}
	return rest
}

// emit makes what takes the values of one metric under the given labels: added
// up, except where a value is a single one, of which the first stands.
func (p *page) emit(i int, labels ...string) emit {
	return func(value float64, own ...string) {
		one, isNew := p.series[i].get(slices.Concat(labels, own))
		p.take(one)
		if isNew || !domain[i].single {
			one.value += value
		}
	}
}
