package apiserver

import (
	"net/http/httptest"
	"os"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// unread is a connection whose other end does not read: writes wait for their
// deadline.
type unread struct {
	*httptest.ResponseRecorder
	late chan struct{} // closed when the deadline has passed
}

func (u unread) Write([]byte) (int, error) {
	<-u.late
	return 0, os.ErrDeadlineExceeded
}

func (u unread) SetWriteDeadline(t time.Time) error {
	if !t.After(time.Now()) {
		close(u.late)
	}
	return nil
}

// A watcher that stops reading is ended; one that has nothing to read is not.
func TestWatcherThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newReading(t, 0)
		defer s.end()
		w := s.watchOf(t, "", metav1.ListOptions{})
		req := httptest.NewRequest("GET", "/api/v1/configmaps?watch=true", nil)
		ended := make(chan time.Time)
		go func() {
			s.respondWatch(unread{httptest.NewRecorder(), make(chan struct{})}, &Request{Verb: "watch", Resource: configMaps, HTTP: req,
				Out: Output{MediaType: "application/json"}}, w)
			ended <- time.Now()
		}()
		time.Sleep(10 * time.Minute) // with nothing to read
		synctest.Wait()
		select {
		case <-ended:
			t.Fatal("a quiet watch was ended")
		default:
		}
		began := time.Now()
		s.write(t, labelled("n", "a"), 0)
		if took := (<-ended).Sub(began); took != time.Minute {
			t.Errorf("who does not read is ended after %s, want a minute", took)
		}
	})
}
