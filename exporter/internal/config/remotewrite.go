package config

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
)

// RemoteWrite is a receiver that metrics are written to, in the words of
// Prometheus.
type RemoteWrite struct {
	URL             promconfig.URL    `yaml:"url"`
	ProtobufMessage string            `yaml:"protobuf_message"`
	Headers         map[string]string `yaml:"headers,omitempty"`
	ExternalLabels  map[string]string `yaml:"external_labels,omitempty"`
	Interval        model.Duration    `yaml:"interval"`
	RemoteTimeout   model.Duration    `yaml:"remote_timeout"`
	RetryBudget     model.Duration    `yaml:"retry_budget"`
	Backoff         Backoff           `yaml:"backoff_config"`
	MaxSamples      int               `yaml:"max_samples_per_send"`
	NativeHistogram bool              `yaml:"send_native_histograms"`
	Live            bool              `yaml:"live"`
	History         bool              `yaml:"history"`
	QueueWait       model.Duration    `yaml:"queue_wait"`

	HTTP promconfig.HTTPClientConfig `yaml:",inline"`
}

// The messages of remote write 1.0 and 2.0.
const (
	RemoteWriteV1 = "prometheus.WriteRequest"
	RemoteWriteV2 = "io.prometheus.write.v2.Request"
)

// DefaultRemoteWrite has no URL, which must be given.
var DefaultRemoteWrite = RemoteWrite{
	ProtobufMessage: RemoteWriteV1, Interval: model.Duration(time.Minute), RemoteTimeout: model.Duration(10 * time.Second),
	Backoff:    Backoff{MinPeriod: model.Duration(500 * time.Millisecond), MaxPeriod: model.Duration(10 * time.Second)},
	MaxSamples: 2000, Live: true, QueueWait: model.Duration(10 * time.Second), HTTP: promconfig.DefaultHTTPClientConfig,
}

// UnmarshalYAML sets the defaults first.
func (r *RemoteWrite) UnmarshalYAML(unmarshal func(any) error) error {
	*r = DefaultRemoteWrite
	type plain RemoteWrite
	return unmarshal((*plain)(r))
}

// Budget is how long a round's samples are tried: up to the next round unless
// said otherwise.
func (r *RemoteWrite) Budget() time.Duration {
	if r.RetryBudget == 0 {
		return time.Duration(r.Interval)
	}
	return time.Duration(r.RetryBudget)
}

// Client is the HTTP client's configuration with the headers in it.
func (r *RemoteWrite) Client() promconfig.HTTPClientConfig {
	h := r.HTTP
	if len(r.Headers) == 0 {
		return h
	}
	all := promconfig.Headers{Headers: map[string]promconfig.Header{}}
	if h.HTTPHeaders != nil {
		all.Headers = maps.Clone(h.HTTPHeaders.Headers)
	}
	for name, value := range r.Headers {
		all.Headers[http.CanonicalHeaderKey(name)] = promconfig.Header{Values: []string{value}}
	}
	h.HTTPHeaders = &all
	return h
}

// setByProtocol are the headers that remote write itself sets.
var setByProtocol = []string{"Content-Encoding", "Content-Type", "Content-Length", "X-Prometheus-Remote-Write-Version", "Host", "User-Agent", "Authorization"}

// minSamples keeps a round from falling into countless requests.
const minSamples = 100

func (r *RemoteWrite) validate(at string) error {
	if r.URL.URL == nil {
		return fmt.Errorf("%s.url: it is missing; give the receiver's, like http://localhost:9090/api/v1/write", at)
	}
	if err := checkURL(at, r.URL); err != nil {
		return err
	}
	if r.ProtobufMessage != RemoteWriteV1 && r.ProtobufMessage != RemoteWriteV2 {
		return fmt.Errorf("%s.protobuf_message: %q; give %s (remote write 1.0) or %s (2.0)", at, r.ProtobufMessage, RemoteWriteV1, RemoteWriteV2)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		if slices.Contains(setByProtocol, http.CanonicalHeaderKey(name)) {
			return fmt.Errorf("%s.headers: %s cannot be set here: the protocol or the keys for authorization set it", at, name)
		}
	}
	for _, label := range slices.Sorted(maps.Keys(r.ExternalLabels)) {
		if !model.LegacyValidation.IsValidLabelName(label) || label == model.MetricNameLabel {
			return fmt.Errorf("%s.external_labels: %q is no label name", at, label)
		}
	}
	if !r.Live && !r.History {
		return fmt.Errorf("%s.live: neither live nor history is on, so that nothing is written; leave the entry away", at)
	}
	return r.validateTimes(at)
}

func (r *RemoteWrite) validateTimes(at string) error {
	if r.Interval <= 0 || r.RemoteTimeout <= 0 {
		return fmt.Errorf("%s: interval and remote_timeout must be longer than 0", at)
	}
	if r.QueueWait <= 0 {
		return fmt.Errorf("%s.queue_wait: it must be longer than 0", at)
	}
	if r.RetryBudget < 0 || r.RetryBudget > r.Interval {
		return fmt.Errorf("%s.retry_budget: %s; give at most the interval, %s: the next round has newer values. 0s is the interval", at, r.RetryBudget, r.Interval)
	}
	if r.MaxSamples < minSamples {
		return fmt.Errorf("%s.max_samples_per_send: %d; give at least %d", at, r.MaxSamples, minSamples)
	}
	if err := r.Backoff.validate(at); err != nil {
		return err
	}
	h := r.Client()
	return located(at, h.Validate())
}

// masked is r as it may be shown.
func (r RemoteWrite) masked() RemoteWrite {
	r.URL, r.HTTP, r.Headers = maskedURL(r.URL), maskedHTTP(r.HTTP), maps.Clone(r.Headers)
	for name := range r.Headers {
		r.Headers[name] = mask
	}
	return r
}
