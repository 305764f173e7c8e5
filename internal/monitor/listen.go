package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"syscall"
)

// AddressError is the error of an address that is none, or none of this host.
type AddressError struct{ Address, Want string }

// Error returns the address and what to do.
func (e *AddressError) Error() string { return strconv.Quote(e.Address) + ": " + e.Want }

const addressWanted = "want HOST:PORT, such as 127.0.0.1:9947, [::1]:9947, or :9947 for all " +
	"addresses of this host"

// checkAddresses returns an *AddressError unless all of these are of the form HOST:PORT, and none
// comes twice.
func checkAddresses(addresses []string) error {
	for i, at := range addresses {
		_, port, err := net.SplitHostPort(at)
		if err == nil && port != "" { // without a port the kernel would choose one
			_, err = net.LookupPort("tcp", port)
		}
		switch {
		case err != nil || port == "":
			return &AddressError{at, addressWanted}
		case port != "0" && slices.Contains(addresses[:i], at):
			return &AddressError{at, "it is given twice; leave one out"}
		}
	}
	return nil
}

// Listen listens on addresses, on all of them or on none. The error is an *AddressError if
// the address is not of this host.
func Listen(ctx context.Context, addresses []string) (all []net.Listener, err error) {
	if err := checkAddresses(addresses); err != nil {
		return nil, err
	}
	for _, at := range addresses {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", at)
		if err != nil {
			for _, l := range all {
				_ = l.Close()
			}
			return nil, listenError(at, err)
		}
		all = append(all, l)
	}
	return all, nil
}

// listenError says why nothing can listen on an address.
func listenError(at string, err error) error {
	var unknown *net.DNSError
	switch {
	case errors.As(err, &unknown) && unknown.IsNotFound:
		return &AddressError{at, "there is no host of this name; want an address of this host"}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return &AddressError{at, "this host does not have it; want one of: ip address"}
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%q: another process listens there, such as another monitor; end that, "+
			"or choose another port (who it is, is shown by: ss -ltnp)", at)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // the address is named already
	}
	return fmt.Errorf("%q: %w", at, err)
}
