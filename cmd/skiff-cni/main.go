//go:build linux

// Command skiff-cni is the CNI plugin that container runtimes start for each pod
// sandbox. It knows nothing of networks: it hands its environment and its input
// to the node's agent over a unix socket and prints what comes back. It is a
// program of its own, made of little more than system calls, because a runtime
// starts it twice for each pod, and a large binary would cost tens of
// milliseconds each time.
//
// One exchange is one connection: the CNI_ variables as NAME=VALUE lines, an
// empty line, then the input; the answer is the exit code as one byte, then the
// output.
package main

import (
	"os"
	"strings"
	"syscall"
)

const versions = `{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}` + "\n"

// timeout of one exchange, in seconds: longer than the agent's own.
const timeout = 60

func main() {
	command := os.Getenv("CNI_COMMAND")
	if command == "VERSION" {
		write(1, []byte(versions))
		return
	}
	input, err := readAll(0)
	if err != nil {
		fail(5, "read the network configuration: "+err.Error())
	}
	if isLoopback() {
		loopback(command, input)
		return
	}
	socket := text(input, "socket")
	if socket == "" {
		fail(7, "the network configuration names no socket of the node's agent")
	}
	answer, err := ask(socket, request(os.Environ(), input))
	if err != nil {
		fail(11, "ask the node's agent at "+socket+": "+err.Error())
	}
	if len(answer) == 0 {
		fail(11, "the node's agent at "+socket+" closed the connection")
	}
	write(1, answer[1:])
	os.Exit(int(answer[0]))
}

func request(environ []string, input []byte) []byte {
	var b []byte
	for _, v := range environ {
		if strings.HasPrefix(v, "CNI_") && !strings.Contains(v, "\n") {
			b = append(append(b, v...), '\n')
		}
	}
	return append(append(b, '\n'), input...)
}

// ask sends the request and reads until the agent hangs up.
func ask(socket string, request []byte) ([]byte, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	limit := syscall.Timeval{Sec: timeout}
	for _, option := range []int{syscall.SO_RCVTIMEO, syscall.SO_SNDTIMEO} {
		if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, option, &limit); err != nil {
			return nil, err
		}
	}
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}); err != nil {
		return nil, err
	}
	if err := write(fd, request); err != nil {
		return nil, err
	}
	if err := syscall.Shutdown(fd, syscall.SHUT_WR); err != nil {
		return nil, err
	}
	return readAll(fd)
}

func readAll(fd int) ([]byte, error) {
	b := make([]byte, 0, 4096)
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := syscall.Read(fd, b[len(b):cap(b)])
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return nil, err
		case n == 0:
			return b, nil
		default:
			b = b[:len(b)+n]
		}
	}
}

func write(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := syscall.Write(fd, b)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// text finds the value of a string member in JSON that the agent itself wrote
// and a runtime only re-encoded, so that it never holds an escaped character.
func text(input []byte, member string) string {
	_, rest, found := strings.Cut(string(input), `"`+member+`"`)
	if !found {
		return ""
	}
	rest = strings.TrimLeft(rest, " \t\r\n")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, ":"), " \t\r\n")
	if !strings.HasPrefix(rest, `"`) {
		return ""
	}
	value, _, _ := strings.Cut(rest[1:], `"`)
	return value
}

// fail prints the error as CNI wants it and ends the program.
func fail(code int, message string) {
	message = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ").Replace(message)
	write(1, []byte(`{"cniVersion":"1.0.0","code":`+digits(code)+`,"msg":"`+message+`"}`+"\n"))
	os.Exit(1)
}

func digits(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return digits(n/10) + string(rune('0'+n%10))
}
