package publish

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"

	"github.com/prometheus/client_golang/prometheus"
)

// Compat serves the names under which exporters that ask fail2ban's socket have
// given its numbers for years, so that their dashboards go on working: with the
// counts made right, and with a host. It is opt-in.
type Compat struct {
	source bool
	forget time.Duration

	mu           sync.Mutex // guards what stays from one Set to the next
	hosts, jails admission

	served atomic.Pointer[[]prometheus.Metric]
}

// compatMetric is one of them: of a host, or of each of its jails.
type compatMetric struct {
	name, help string
	kind       prometheus.ValueType
	host       func(*correlate.HostReport) (float64, bool)
	jail       func(*correlate.JailReport) (float64, bool)
	single     bool // values cannot be added up
}

var compatMetrics = []compatMetric{
	{name: "f2b_up", kind: gauge, single: true, help: "1 if the server runs as far as its log says, else 0.", host: func(h *correlate.HostReport) (float64, bool) {
		if h.Running.OK && !h.Running.V {
			return 0, true
		}
		return 1, true
	}},
	{name: "f2b_jail_count", kind: gauge, help: "Jails in the log of the host.", host: func(h *correlate.HostReport) (float64, bool) { return float64(len(h.Jails)), true }},
	{name: "f2b_jail_banned_current", kind: gauge, help: "Ids banned now.", jail: func(j *correlate.JailReport) (float64, bool) { return float64(j.BannedNow), true }},
	{name: "f2b_jail_banned_total", kind: counter, help: "True bans, without restored and re-read ones.", jail: func(j *correlate.JailReport) (float64, bool) { return float64(j.Counts.TrueBans()), true }},
	{name: "f2b_jail_failed_current", kind: gauge, help: "Ids that failed within the find time and are not banned.", jail: func(j *correlate.JailReport) (float64, bool) { return float64(j.Failing), true }},
	{name: "f2b_jail_failed_total", kind: counter, help: "Failures, each counted once.", jail: func(j *correlate.JailReport) (float64, bool) { return float64(j.Counts.Failures), true }},
	{name: "f2b_config_jail_ban_time", kind: gauge, single: true, help: "The jail's ban time in seconds, -1 if permanent.", jail: func(j *correlate.JailReport) (float64, bool) {
		if j.BanTime.V < 0 {
			return -1, j.BanTime.OK
		}
		return j.BanTime.V.Seconds(), j.BanTime.OK
	}},
	{name: "f2b_config_jail_find_time", kind: gauge, single: true, help: "Within how many seconds the jail counts failures.", jail: func(j *correlate.JailReport) (float64, bool) {
		return j.FindTime.V.Seconds(), j.FindTime.OK
	}},
	{name: "f2b_config_jail_max_retries", kind: gauge, single: true, help: "How many failures make the jail ban.", jail: func(j *correlate.JailReport) (float64, bool) {
		return float64(j.MaxRetry.V), j.MaxRetry.OK
	}},
}

// NewCompat makes the collector, which serves nothing before the first Set.
func NewCompat(o MetricsOptions) *Compat {
	c := &Compat{source: o.NameSource, forget: o.ForgetAfter, hosts: newAdmission(o.MaxHosts), jails: newAdmission(o.MaxJails)}
	c.served.Store(new([]prometheus.Metric))
	return c
}

func (c *Compat) desc(m *compatMetric) *prometheus.Desc {
	var labels []string
	if c.source {
		labels = append(labels, "source")
	}
	labels = append(labels, "host")
	if m.jail != nil {
		labels = append(labels, "jail")
	}
	return prometheus.NewDesc(m.name, m.help, labels, nil)
}

// Describe sends the description of every metric.
func (c *Compat) Describe(ch chan<- *prometheus.Desc) {
	for i := range compatMetrics {
		ch <- c.desc(&compatMetrics[i])
	}
}

// Collect sends the series of the last view.
func (c *Compat) Collect(ch chan<- prometheus.Metric) {
	for _, m := range *c.served.Load() {
		ch <- m
	}
}

// Set makes a view the one that is served.
func (c *Compat) Set(v *View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []prometheus.Metric
	if v.CaughtUp {
		hosts, jails := census(v, c.forget)
		c.hosts.review(hosts)
		c.jails.review(jails)
	}
	for i := range compatMetrics {
		m := &compatMetrics[i]
		set := seriesSet{}
		if v.CaughtUp {
			c.fill(&set, m, v)
		}
		desc := c.desc(m)
		for _, s := range set.all {
			out = append(out, prometheus.MustNewConstMetric(desc, m.kind, s.value, s.labels...))
		}
	}
	c.served.Store(&out)
}

func (c *Compat) fill(set *seriesSet, m *compatMetric, v *View) {
	for i := range v.Sources {
		src := &v.Sources[i]
		for k := range src.Report.Hosts {
			h := &src.Report.Hosts[k]
			host, at := c.hosts.place(hostKey(src.Name, h.Host), h.Host)
			gone := silent(v, h.LastLine, c.forget)
			labels := []string{host}
			if c.source {
				labels = []string{label(src.Name), host}
			}
			if m.host != nil {
				value, ok := m.host(h)
				add(set, labels, value, ok && shows(m, gone, at))
				continue
			}
			for n := range h.Jails {
				j := &h.Jails[n]
				jail, jailAt := c.jails.place(j.Jail, j.Jail)
				value, ok := m.jail(j)
				add(set, append(slices.Clip(labels), jail), value, ok && shows(m, gone || jailGone(v, j, c.forget), at, jailAt))
			}
		}
	}
}

// shows tells whether a value is shown: of those that have gone only in sums with
// others, which must not fall, and single ones never there.
func shows(m *compatMetric, gone bool, at ...place) bool {
	if slices.Contains(at, nowhere) {
		return false
	}
	if slices.Contains(at, inOther) {
		return !m.single
	}
	return !gone
}

func add(set *seriesSet, labels []string, value float64, ok bool) {
	if ok {
		one, _ := set.get(labels)
		one.value += value
	}
}
