#!/usr/bin/env bash
# Applies the example to the cluster NAME, waits until it answers, and prints where. `make up` ends with it.
set -euo pipefail
cd "$(dirname "$0")"

kubectl() { command kubectl --context "skiff-${NAME:-skiff}" "$@"; }

kubectl apply -f web.yaml
kubectl rollout status deployment/web --timeout=120s
kubectl wait service/web --for=jsonpath='{.status.loadBalancer.ingress}' --timeout=60s >/dev/null
address=$(kubectl get service web -o jsonpath='{.status.loadBalancer.ingress[0].ip}{.status.loadBalancer.ingress[0].hostname}:{.spec.ports[0].port}')

answer=
for _ in {1..50}; do # the rules that lead there may be a moment behind the Service's status
	if answer=$(exec 3<>"/dev/tcp/${address%:*}/${address##*:}" && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && tail -1 <&3) 2>/dev/null && [[ $answer == *'"pod"'* ]]; then
		break
	fi
	sleep 0.1
done
if [[ $answer != *'"pod"'* ]]; then
	echo "The example runs, but nothing answers at http://$address/" >&2
	exit 1
fi
echo
echo "The example answers at http://$address/"
echo "  $answer"
