package core

import (
	"net"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
)

const oneVolumeType = "may not specify more than 1 volume type"

// checkVolumes checks a pod's volumes and fills c.volumes with the valid ones.
func (c *podCheck) checkVolumes(p place) {
	created := sets.New[string]() // names of the claims that ephemeral volumes will make
	if c.podName != "" {
		for i := range c.spec.Volumes {
			if v := &c.spec.Volumes[i]; v.Ephemeral != nil {
				created.Insert(c.podName + "-" + v.Name)
			}
		}
	}
	c.volumes = make(map[string]*corev1.VolumeSource, len(c.spec.Volumes))
	for i := range c.spec.Volumes {
		v := &c.spec.Volumes[i]
		at := p.index(i)
		before := len(*p.errs)
		c.checkVolumeSource(at, v)
		if at.wants("name", v.Name) {
			at.dnsLabel("name", v.Name)
		}
		if c.volumes[v.Name] != nil {
			at.duplicate("name", v.Name)
		}
		if len(*p.errs) == before {
			c.volumes[v.Name] = &v.VolumeSource
		}
		if claim := v.PersistentVolumeClaim; claim != nil && created.Has(claim.ClaimName) {
			at.child("persistentVolumeClaim").invalid("claimName", claim.ClaimName,
				"must not reference a PVC that gets created for an ephemeral volume")
		}
	}
}

// checkVolumeSource checks that a volume has one type, and that type. It is long
// because it is a table: one row a type.
func (c *podCheck) checkVolumeSource(p place, v *corev1.Volume) {
	one := union{place: p, tooMany: oneVolumeType}
	if e := v.EmptyDir; e != nil {
		one.count++
		if e.SizeLimit != nil && e.SizeLimit.Sign() < 0 {
			p.child("emptyDir").forbidden("sizeLimit", "SizeLimit field must be a valid resource quantity")
		}
		if e.Mode != nil && (*e.Mode < 0 || *e.Mode > 0o1777) {
			p.child("emptyDir").invalid("mode", *e.Mode, "must be a number between 0 and 01777 (octal), both inclusive")
		}
	}
	if at, ok := one.take(v.HostPath != nil, "hostPath"); ok {
		checkHostPath(at, v.HostPath)
	}
	if at, ok := one.take(v.GitRepo != nil, "gitRepo"); ok {
		at.wants("repository", v.GitRepo.Repository)
		checkBelow(at, "directory", v.GitRepo.Directory)
	}
	if at, ok := one.takeAs(v.GCEPersistentDisk != nil, "gcePersistentDisk", "persistentDisk"); ok {
		checkGCEDisk(at, v.GCEPersistentDisk)
	}
	if at, ok := one.take(v.AWSElasticBlockStore != nil, "awsElasticBlockStore"); ok {
		checkAWSDisk(at, v.AWSElasticBlockStore)
	}
	if at, ok := one.take(v.Secret != nil, "secret"); ok {
		at.wants("secretName", v.Secret.SecretName)
		checkFiles(at, v.Secret.DefaultMode, v.Secret.DefaultUser, v.Secret.Items)
	}
	if at, ok := one.take(v.NFS != nil, "nfs"); ok {
		checkNFS(at, v.NFS)
	}
	if at, ok := one.take(v.ISCSI != nil, "iscsi"); ok {
		checkISCSI(at, v.ISCSI)
	}
	if v.ISCSI != nil && v.ISCSI.InitiatorName != nil && len(v.Name+":"+v.ISCSI.TargetPortal) > 64 {
		p.invalid("name", v.Name, longISCSIName)
	}
	if at, ok := one.take(v.Glusterfs != nil, "glusterfs"); ok {
		at.wants("endpoints", v.Glusterfs.EndpointsName)
		at.wants("path", v.Glusterfs.Path)
	}
	if at, ok := one.take(v.Flocker != nil, "flocker"); ok {
		checkFlocker(at, v.Flocker)
	}
	if at, ok := one.take(v.PersistentVolumeClaim != nil, "persistentVolumeClaim"); ok {
		at.wants("claimName", v.PersistentVolumeClaim.ClaimName)
	}
	if at, ok := one.take(v.RBD != nil, "rbd"); ok {
		checkRBD(at, v.RBD.CephMonitors, v.RBD.RBDImage)
	}
	if at, ok := one.take(v.Cinder != nil, "cinder"); ok {
		at.wants("volumeID", v.Cinder.VolumeID)
		checkLocalSecret(at, v.Cinder.SecretRef)
	}
	if at, ok := one.takeAs(v.CephFS != nil, "cephFS", "cephfs"); ok {
		wantsMonitors(at, v.CephFS.Monitors)
	}
	if at, ok := one.take(v.Quobyte != nil, "quobyte"); ok {
		checkQuobyte(at, v.Quobyte)
	}
	if at, ok := one.takeAs(v.DownwardAPI != nil, "downwarAPI", "downwardAPI"); ok {
		checkFiles(at, v.DownwardAPI.DefaultMode, v.DownwardAPI.DefaultUser, nil)
		for i := range v.DownwardAPI.Items {
			checkDownwardFile(at, &v.DownwardAPI.Items[i])
		}
	}
	if at, ok := one.take(v.FC != nil, "fc"); ok {
		checkFC(at, v.FC)
	}
	if at, ok := one.take(v.FlexVolume != nil, "flexVolume"); ok {
		checkFlex(at, v.FlexVolume.Driver, v.FlexVolume.Options)
	}
	if at, ok := one.take(v.ConfigMap != nil, "configMap"); ok {
		at.wants("name", v.ConfigMap.Name)
		checkFiles(at, v.ConfigMap.DefaultMode, v.ConfigMap.DefaultUser, v.ConfigMap.Items)
	}
	if at, ok := one.take(v.AzureFile != nil, "azureFile"); ok {
		at.wants("secretName", v.AzureFile.SecretName)
		at.wants("shareName", v.AzureFile.ShareName)
	}
	if at, ok := one.take(v.VsphereVolume != nil, "vsphereVolume"); ok {
		at.wants("volumePath", v.VsphereVolume.VolumePath)
	}
	if at, ok := one.take(v.PhotonPersistentDisk != nil, "photonPersistentDisk"); ok {
		at.wants("pdID", v.PhotonPersistentDisk.PdID)
	}
	if at, ok := one.take(v.PortworxVolume != nil, "portworxVolume"); ok {
		at.wants("volumeID", v.PortworxVolume.VolumeID)
	}
	if at, ok := one.take(v.AzureDisk != nil, "azureDisk"); ok {
		checkAzureDisk(at, v.AzureDisk)
	}
	if at, ok := one.take(v.StorageOS != nil, "storageos"); ok {
		checkStorageOS(at, v.StorageOS.VolumeName, v.StorageOS.VolumeNamespace)
		checkLocalSecret(at, v.StorageOS.SecretRef)
	}
	if at, ok := one.take(v.Projected != nil, "projected"); ok {
		c.checkProjected(at, v.Projected)
	}
	if at, ok := one.take(v.ScaleIO != nil, "scaleIO"); ok {
		checkScaleIO(at, v.ScaleIO.Gateway, v.ScaleIO.System, v.ScaleIO.VolumeName)
	}
	if at, ok := one.take(v.CSI != nil, "csi"); ok {
		checkCSIDriver(at, "driver", v.CSI.Driver)
		if ref := v.CSI.NodePublishSecretRef; ref != nil && at.child("nodePublishSecretRef").wants("name", ref.Name) {
			at.dnsSubdomain("name", ref.Name)
		}
	}
	if at, ok := one.take(v.Ephemeral != nil, "ephemeral"); ok {
		c.checkEphemeralVolume(p, at, v)
	}
	if at, ok := one.take(v.Image != nil, "image"); ok {
		if !c.lenient.emptyImageVolume {
			at.wants("reference", v.Image.Reference)
		}
		checkPullPolicy(at, "pullPolicy", v.Image.PullPolicy)
	}
	if one.count == 0 {
		p.required("", "must specify a volume type")
	}
}

func checkPullPolicy(p place, name string, policy corev1.PullPolicy) {
	setOneOf(p, name, policy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

func (c *podCheck) checkEphemeralVolume(volume, p place, v *corev1.Volume) {
	t := v.Ephemeral.VolumeClaimTemplate
	if t == nil {
		p.required("volumeClaimTemplate", "")
	} else {
		at := p.child("volumeClaimTemplate")
		checkTemplateMeta(at.child("metadata"), &t.ObjectMeta)
		checkClaimSpec(at.child("spec"), &t.Spec, claimLeniency{})
	}
	if c.podName == "" || v.Name == "" {
		return
	}
	claim := c.podName + "-" + v.Name
	for _, msg := range validation.NameIsDNSSubdomain(claim, false) {
		volume.invalid("name", v.Name, "PVC name \""+claim+"\": "+msg)
	}
}

// checkTemplateMeta allows a template's metadata labels and annotations only.
func checkTemplateMeta(p place, m *metav1.ObjectMeta) {
	p.add(validation.ValidateAnnotations(m.Annotations, p.path.Child("annotations"))...)
	p.add(metav1validation.ValidateLabels(m.Labels, p.path.Child("labels"))...)
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"name", m.Name != ""}, {"generateName", m.GenerateName != ""}, {"namespace", m.Namespace != ""},
		{"selfLink", m.SelfLink != ""}, {"uID", m.UID != ""}, {"resourceVersion", m.ResourceVersion != ""},
		{"generation", m.Generation != 0}, {"creationTimestamp", !m.CreationTimestamp.IsZero()},
		{"deletionTimestamp", m.DeletionTimestamp != nil}, {"deletionGracePeriodSeconds", m.DeletionGracePeriodSeconds != nil},
		{"ownerReferences", m.OwnerReferences != nil}, {"finalizers", m.Finalizers != nil}, {"managedFields", m.ManagedFields != nil},
	} {
		if f.set {
			p.forbidden(f.name, "cannot be set")
		}
	}
}

const fileMode = "must be a number between 0 and 0777 (octal), both inclusive"

func checkFileMode(p place, name string, mode *int32) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		p.invalid(name, *mode, fileMode)
	}
}

func checkUserID(p place, name string, id *int64) {
	if id != nil {
		p.invalidEach(name, *id, utilvalidation.IsValidUserID(*id))
	}
}

// checkFiles checks the mode and owner of a volume's files, and which keys become files.
func checkFiles(p place, mode *int32, user *int64, items []corev1.KeyToPath) {
	checkFileMode(p, "defaultMode", mode)
	checkUserID(p, "defaultUser", user)
	checkItems(p, items)
}

func checkItems(p place, items []corev1.KeyToPath) {
	for i := range items {
		it, at := &items[i], p.child("items").index(i)
		at.wants("key", it.Key)
		at.wants("path", it.Path)
		checkProjectedPath(at, "path", it.Path)
		checkFileMode(at, "mode", it.Mode)
		checkUserID(at, "user", it.User)
	}
}

func checkDownwardFile(p place, f *corev1.DownwardAPIVolumeFile) {
	p.wants("path", f.Path)
	checkProjectedPath(p, "path", f.Path)
	switch {
	case f.FieldRef != nil:
		checkFieldRef(p.child("fieldRef"), f.FieldRef, volumeFields)
		if f.ResourceFieldRef != nil {
			p.invalid("", "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
		}
	case f.ResourceFieldRef != nil:
		checkResourceFieldRef(p.child("resourceFieldRef"), f.ResourceFieldRef, true)
	default:
		p.required("", "one of fieldRef and resourceFieldRef is required")
	}
	checkFileMode(p, "mode", f.Mode)
	checkUserID(p, "user", f.User)
}

// projection is the check of a projected volume: its sources share one directory.
type projection struct {
	place
	paths sets.Set[string]
}

func (v *projection) claim(file string, value any) {
	if v.paths.Has(file) {
		v.invalid("", value, "conflicting duplicate paths")
	}
	v.paths.Insert(file)
}

func (c *podCheck) checkProjected(p place, v *corev1.ProjectedVolumeSource) {
	checkFileMode(p, "defaultMode", v.DefaultMode)
	checkUserID(p, "defaultUser", v.DefaultUser)
	dir := &projection{p, sets.New[string]()}
	for i := range v.Sources {
		c.checkProjectedSource(dir, p.child("sources").index(i), &v.Sources[i])
	}
}

func (c *podCheck) checkProjectedSource(dir *projection, p place, s *corev1.VolumeProjection) {
	sources := 0
	keys := func(at place, name string, items []corev1.KeyToPath) {
		sources++
		at.wants("name", name)
		checkItems(at, items)
		for _, it := range items {
			if it.Path != "" {
				dir.claim(it.Path, name)
			}
		}
	}
	if s.Secret != nil {
		keys(p.child("secret"), s.Secret.Name, s.Secret.Items)
	}
	if s.ConfigMap != nil {
		keys(p.child("configMap"), s.ConfigMap.Name, s.ConfigMap.Items)
	}
	if s.DownwardAPI != nil {
		sources++
		for i := range s.DownwardAPI.Items {
			f := &s.DownwardAPI.Items[i]
			checkDownwardFile(p.child("downwardAPI"), f)
			if f.Path != "" {
				dir.claim(f.Path, f.Path)
			}
		}
	}
	if s.ServiceAccountToken != nil {
		sources++
		c.checkTokenProjection(dir, p.child("serviceAccountToken"), s.ServiceAccountToken)
	}
	if s.ClusterTrustBundle != nil {
		sources++
		checkTrustBundleProjection(dir, p.child("clusterTrustBundle"), s.ClusterTrustBundle)
	}
	if s.PodCertificate != nil {
		sources++
		checkCertificateProjection(dir, p.child("podCertificate"), s.PodCertificate)
	}
	if sources > 1 {
		p.forbidden("", "may not specify more than 1 volume type per source")
	}
}

func (c *podCheck) checkTokenProjection(dir *projection, p place, t *corev1.ServiceAccountTokenProjection) {
	switch life := t.ExpirationSeconds; {
	case life == nil:
		p.required("expirationSeconds", "")
	case *life < 10*60:
		p.invalid("expirationSeconds", *life, "may not specify a duration less than 10 minutes")
	case *life > 1<<32:
		p.invalid("expirationSeconds", *life, "may not specify a duration larger than 2^32 seconds")
	}
	if dir.wants("path", t.Path) && !c.lenient.tokenPath { // the path is that of the volume, not of the source
		checkProjectedPath(dir.place, "path", t.Path)
	}
	checkUserID(p, "user", t.User)
}

func checkTrustBundleProjection(dir *projection, p place, b *corev1.ClusterTrustBundleProjection) {
	switch {
	case b.Name != nil && b.SignerName != nil:
		p.invalid("", b, "only one of name and signerName may be used")
	case b.Name != nil:
		if *b.Name == "" {
			p.required("name", "must be a valid object name")
		}
		for _, msg := range trustBundleName(*b.Name) {
			p.invalid("name", *b.Name, "not a valid clustertrustbundlename: "+msg)
		}
		if b.LabelSelector != nil {
			p.invalid("labelSelector", b.LabelSelector, "labelSelector must be unset if name is specified")
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			p.required("signerName", "must be a valid signer name")
		}
		checkSignerName(p, "signerName", *b.SignerName)
		p.add(metav1validation.ValidateLabelSelector(b.LabelSelector, metav1validation.LabelSelectorValidationOptions{}, p.path.Child("labelSelector"))...)
	default:
		p.required("", "either name or signerName must be specified")
	}
	p.wants("path", b.Path)
	checkUserID(p, "user", b.User)
	checkProjectedPath(p, "path", b.Path)
	dir.claim(b.Path, b.Path)
}

var podCertificateKeys = []string{"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"}

func checkCertificateProjection(dir *projection, p place, c *corev1.PodCertificateProjection) {
	checkSignerName(p, "signerName", c.SignerName)
	if c.UserAnnotations != nil {
		p.add(ValidateUserAnnotations(c.UserAnnotations, p.path.Child("userAnnotations"))...)
	}
	checkUserID(p, "user", c.User)
	oneOf(p, "keyType", c.KeyType, podCertificateKeys...)
	if life := c.MaxExpirationSeconds; life != nil {
		longest, words := int32(91*24*60*60), "7862400"
		if isKubernetesSigner(c.SignerName) {
			longest, words = 24*60*60, "86400"
		}
		if *life < 3600 {
			p.invalid("maxExpirationSeconds", *life, "if provided, maxExpirationSeconds must be >= 3600")
		}
		if *life > longest {
			p.invalid("maxExpirationSeconds", *life, "if provided, maxExpirationSeconds must be <= "+words)
		}
	}
	files := 0
	for _, f := range []struct{ name, path string }{
		{"credentialBundlePath", c.CredentialBundlePath}, {"keyPath", c.KeyPath}, {"certificateChainPath", c.CertificateChainPath},
	} {
		if f.path == "" {
			continue
		}
		files++
		checkProjectedPath(p, f.name, f.path)
		dir.claim(f.path, f.path)
	}
	if files == 0 {
		p.required("", "specify at least one of credentialBundlePath, keyPath, and certificateChainPath")
	}
}

func checkHostPath(p place, h *corev1.HostPathVolumeSource) {
	if !p.wants("path", h.Path) {
		return
	}
	checkNoBacksteps(p, "path", h.Path)
	if h.Type != nil {
		oneOf(p, "type", *h.Type, corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
			corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)
	}
}

func checkPartition(p place, n int32) {
	if n < 0 || n > 255 {
		p.invalid("partition", n, utilvalidation.InclusiveRangeError(1, 255))
	}
}

func checkGCEDisk(p place, d *corev1.GCEPersistentDiskVolumeSource) {
	p.wants("pdName", d.PDName)
	checkPartition(p, d.Partition)
}

func checkAWSDisk(p place, d *corev1.AWSElasticBlockStoreVolumeSource) {
	p.wants("volumeID", d.VolumeID)
	checkPartition(p, d.Partition)
}

func checkNFS(p place, n *corev1.NFSVolumeSource) {
	p.wants("server", n.Server)
	p.wants("path", n.Path)
	if !path.IsAbs(n.Path) {
		p.invalid("path", n.Path, "must be an absolute path")
	}
}

func checkFlocker(p place, f *corev1.FlockerVolumeSource) {
	if f.DatasetName == "" && f.DatasetUUID == "" {
		p.required("", "one of datasetName and datasetUUID is required")
	}
	if f.DatasetName != "" && f.DatasetUUID != "" {
		p.invalid("", "resource", "datasetName and datasetUUID can not be specified simultaneously")
	}
	if strings.Contains(f.DatasetName, "/") {
		p.invalid("datasetName", f.DatasetName, "must not contain '/'")
	}
}

func wantsMonitors(p place, monitors []string) {
	if len(monitors) == 0 {
		p.required("monitors", "")
	}
}

func checkRBD(p place, monitors []string, image string) {
	wantsMonitors(p, monitors)
	p.wants("image", image)
}

func checkLocalSecret(p place, ref *corev1.LocalObjectReference) {
	if ref != nil {
		p.child("secretRef").wants("name", ref.Name)
	}
}

func checkQuobyte(p place, q *corev1.QuobyteVolumeSource) {
	const pairs = "must be a host:port pair or multiple pairs separated by commas"
	switch {
	case q.Registry == "":
		p.required("registry", pairs)
	case len(q.Tenant) >= 65:
		p.required("tenant", "must be a UUID and may not exceed a length of 64 characters")
	default:
		for pair := range strings.SplitSeq(q.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				p.invalid("registry", q.Registry, pairs)
			}
		}
	}
	p.wants("volume", q.Volume)
}

func checkFC(p place, f *corev1.FCVolumeSource) {
	switch {
	case len(f.TargetWWNs) == 0 && len(f.WWIDs) == 0:
		p.required("targetWWNs", "must specify either targetWWNs or wwids, but not both")
	case len(f.TargetWWNs) > 0 && len(f.WWIDs) > 0:
		p.invalid("targetWWNs", f.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously")
	}
	if len(f.TargetWWNs) == 0 {
		return
	}
	if f.Lun == nil {
		p.required("lun", "lun is required if targetWWNs is specified")
	} else {
		checkLun(p, *f.Lun)
	}
}

func checkLun(p place, lun int32) {
	if lun < 0 || lun > 255 {
		p.invalid("lun", lun, utilvalidation.InclusiveRangeError(0, 255))
	}
}

func checkFlex(p place, driver string, options map[string]string) {
	p.wants("driver", driver)
	for _, k := range sortedKeys(options) {
		prefix, _, _ := strings.Cut(k, "/")
		domain := "." + strings.ToLower(prefix)
		if strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
			p.child("options").key(k).invalid("", k, "kubernetes.io and k8s.io namespaces are reserved")
		}
	}
}

func checkAzureDisk(p place, d *corev1.AzureDiskVolumeSource) {
	p.wants("diskName", d.DiskName)
	p.wants("diskURI", d.DataDiskURI)
	if d.CachingMode != nil {
		oneOf(p, "cachingMode", *d.CachingMode, corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)
	}
	if d.Kind == nil {
		return
	}
	oneOf(p, "kind", *d.Kind, corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)
	if *d.Kind == corev1.AzureManagedDisk {
		if !strings.HasPrefix(d.DataDiskURI, "/subscriptions/") {
			oneOf(p, "diskURI", d.DataDiskURI, "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}")
		}
	} else if !strings.HasPrefix(d.DataDiskURI, "https://") {
		oneOf(p, "diskURI", d.DataDiskURI, "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd")
	}
}

func checkStorageOS(p place, volume, namespace string) {
	if p.wants("volumeName", volume) {
		p.dnsLabel("volumeName", volume)
	}
	if namespace != "" {
		p.dnsLabel("volumeNamespace", namespace)
	}
}

func checkScaleIO(p place, gateway, system, volume string) {
	p.wants("gateway", gateway)
	p.wants("system", system)
	p.wants("volumeName", volume)
}

func checkCSIDriver(p place, name, driver string) {
	if !p.wants(name, driver) {
		return
	}
	if len(driver) > 63 {
		p.tooLong(name, 63)
	}
	p.invalidEach(name, driver, utilvalidation.IsDNS1123Subdomain(strings.ToLower(driver)))
}

// checkMounts checks a container's mounts and block devices, which share names
// and paths.
func (c *podCheck) checkMounts(p place, ctr *corev1.Container) {
	for i := range ctr.VolumeMounts {
		m, at := &ctr.VolumeMounts[i], p.child("volumeMounts")
		c.checkMount(at, at.index(i), m, ctr)
		if slices.ContainsFunc(ctr.VolumeMounts[:i], func(b corev1.VolumeMount) bool { return b.MountPath == m.MountPath }) {
			at.index(i).invalid("mountPath", m.MountPath, "must be unique")
		}
	}
	for i := range ctr.VolumeDevices {
		c.checkDevice(p.child("volumeDevices").index(i), ctr, i)
	}
}

// checkMount checks one mount; some of its messages are reported at the list.
func (c *podCheck) checkMount(list, p place, m *corev1.VolumeMount, ctr *corev1.Container) {
	p.wants("name", m.Name)
	source := c.volumes[m.Name]
	if source == nil {
		p.notFound("name", m.Name)
	}
	p.wants("mountPath", m.MountPath)
	for _, d := range ctr.VolumeDevices {
		if d.Name == m.Name {
			p.invalid("name", m.Name, "must not already exist in volumeDevices")
		}
		if d.DevicePath == m.MountPath {
			p.invalid("mountPath", m.MountPath, "must not already exist as a path in volumeDevices")
		}
	}
	if m.SubPath != "" {
		checkBelow(list, "subPath", m.SubPath)
	}
	if m.SubPathExpr != "" {
		if m.SubPath != "" {
			p.invalid("subPathExpr", m.SubPathExpr, "subPathExpr and subPath are mutually exclusive")
		}
		checkBelow(list, "subPathExpr", m.SubPathExpr)
	}
	if mode := m.MountPropagation; mode != nil {
		oneOf(list, "mountPropagation", *mode, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
		privileged := ctr.SecurityContext != nil && isTrue(ctr.SecurityContext.Privileged)
		if *mode == corev1.MountPropagationBidirectional && !privileged {
			list.forbidden("mountPropagation", "Bidirectional mount propagation is available only to privileged containers")
		}
	}
	checkRecursiveReadOnly(list, m)
	for i, o := range m.BindMountOptions {
		at := p.child("bindMountOptions").index(i)
		oneOf(at, "", o, "nodev", "noexec", "nosuid")
		if slices.Contains(m.BindMountOptions[:i], o) {
			at.duplicate("", o)
		}
	}
	if len(m.BindMountOptions) > 0 && source != nil && source.Image != nil {
		p.invalid("bindMountOptions", m.BindMountOptions, "bindMountOptions may not be used with image volumes")
	}
}

func checkRecursiveReadOnly(p place, m *corev1.VolumeMount) {
	mode := m.RecursiveReadOnly
	if mode == nil {
		return
	}
	oneOf(p, "recursiveReadOnly", *mode, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)
	if *mode != corev1.RecursiveReadOnlyEnabled && *mode != corev1.RecursiveReadOnlyIfPossible {
		return
	}
	if !m.ReadOnly {
		p.forbidden("recursiveReadOnly", "may only be specified when readOnly is true")
	}
	if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
		p.forbidden("recursiveReadOnly", "may only be specified when mountPropagation is None or not specified")
	}
}

func (c *podCheck) checkDevice(p place, ctr *corev1.Container, i int) {
	d, before := &ctr.VolumeDevices[i], ctr.VolumeDevices[:i]
	p.wants("name", d.Name)
	if d.Name != "" && slices.ContainsFunc(before, func(b corev1.VolumeDevice) bool { return b.Name == d.Name }) {
		p.invalid("name", d.Name, "must be unique")
	}
	switch source := c.volumes[d.Name]; {
	case source == nil:
		p.notFound("name", d.Name)
	case source.PersistentVolumeClaim == nil && source.Ephemeral == nil:
		p.invalid("name", d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
	}
	p.wants("devicePath", d.DevicePath)
	if slices.ContainsFunc(before, func(b corev1.VolumeDevice) bool { return b.DevicePath == d.DevicePath && !hasBackstep(b.DevicePath) }) {
		p.invalid("devicePath", d.DevicePath, "must be unique")
	}
	if hasBackstep(d.DevicePath) {
		p.invalid("devicePath", d.DevicePath, "can not contain backsteps ('..')")
	}
	if slices.ContainsFunc(ctr.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == d.Name }) {
		p.invalid("name", d.Name, "must not already exist in volumeMounts")
	}
	if slices.ContainsFunc(ctr.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == d.DevicePath }) {
		p.invalid("devicePath", d.DevicePath, "must not already exist as a path in volumeMounts")
	}
}
