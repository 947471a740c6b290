package cluster

import "context"

// Forget makes the past unreadable, as time does by and by; see
// apiserver.Server.Forget.
func (p *ControlPlane) Forget(ctx context.Context) error { return p.api.Forget(ctx) }
