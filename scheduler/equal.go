package scheduler

import apiequality "k8s.io/apimachinery/pkg/api/equality"

// equal compares parts of objects by meaning: quantities by amount, nil like empty.
func equal(a, b any) bool { return apiequality.Semantic.DeepEqual(a, b) }
