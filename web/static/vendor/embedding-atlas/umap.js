//#region ../umap/umap-wasm/pkg/umap_wasm.js
var e = class e {
	static __wrap(t) {
		let n = Object.create(e.prototype);
		return n.__wbg_ptr = t, g.register(n, n.__wbg_ptr, n), n;
	}
	__destroy_into_raw() {
		let e = this.__wbg_ptr;
		return this.__wbg_ptr = 0, g.unregister(this), e;
	}
	free() {
		let e = this.__destroy_into_raw();
		Z.__wbg_nndescentbuilder_free(e, 0);
	}
	build() {
		let e = this.__destroy_into_raw();
		return Z.nndescentbuilder_build(e);
	}
	delta(t) {
		let n = this.__destroy_into_raw(), r = Z.nndescentbuilder_delta(n, t);
		return e.__wrap(r);
	}
	diversifyProb(t) {
		let n = this.__destroy_into_raw(), r = Z.nndescentbuilder_diversifyProb(n, t);
		return e.__wrap(r);
	}
	gpu(t) {
		let n = this.__destroy_into_raw(), r = Z.nndescentbuilder_gpu(n, t);
		return e.__wrap(r);
	}
	maxRptreeDepth(t) {
		let n = this.__destroy_into_raw(), r = Z.nndescentbuilder_maxRptreeDepth(n, t);
		return e.__wrap(r);
	}
	nIters(t) {
		let n = this.__destroy_into_raw(), r = Z.nndescentbuilder_nIters(n, t);
		return e.__wrap(r);
	}
	nTrees(t) {
		let n = this.__destroy_into_raw(), r = Z.nndescentbuilder_nTrees(n, t);
		return e.__wrap(r);
	}
	constructor(e, t, n, r, i) {
		let a = H(e, Z.__wbindgen_malloc), o = X, s = U(r, Z.__wbindgen_malloc, Z.__wbindgen_realloc), c = X, l = Z.nndescentbuilder_new(a, o, t, n, s, c, i);
		return this.__wbg_ptr = l, g.register(this, this.__wbg_ptr, this), this;
	}
	progress(t) {
		let n = this.__destroy_into_raw(), r = Z.nndescentbuilder_progress(n, t);
		return e.__wrap(r);
	}
	pruningDegreeMultiplier(t) {
		let n = this.__destroy_into_raw(), r = Z.nndescentbuilder_pruningDegreeMultiplier(n, t);
		return e.__wrap(r);
	}
	randomState(t) {
		let n = this.__destroy_into_raw(), r = Z.nndescentbuilder_randomState(n, t);
		return e.__wrap(r);
	}
	treeInit(t) {
		let n = this.__destroy_into_raw(), r = Z.nndescentbuilder_treeInit(n, t);
		return e.__wrap(r);
	}
	verbose(t) {
		let n = this.__destroy_into_raw(), r = Z.nndescentbuilder_verbose(n, t);
		return e.__wrap(r);
	}
};
Symbol.dispose && (e.prototype[Symbol.dispose] = e.prototype.free);
var t = class e {
	static __wrap(t) {
		let n = Object.create(e.prototype);
		return n.__wbg_ptr = t, _.register(n, n.__wbg_ptr, n), n;
	}
	__destroy_into_raw() {
		let e = this.__wbg_ptr;
		return this.__wbg_ptr = 0, _.unregister(this), e;
	}
	free() {
		let e = this.__destroy_into_raw();
		Z.__wbg_nndescentindex_free(e, 0);
	}
	neighborGraph() {
		let e = Z.nndescentindex_neighborGraph(this.__wbg_ptr);
		if (e[2]) throw W(e[1]);
		return n.__wrap(e[0]);
	}
	prepare() {
		Z.nndescentindex_prepare(this.__wbg_ptr);
	}
	query(e, t, r, i, a) {
		let o = H(e, Z.__wbindgen_malloc), s = X, c = Z.nndescentindex_query(this.__wbg_ptr, o, s, t, r, i, a);
		if (c[2]) throw W(c[1]);
		return n.__wrap(c[0]);
	}
};
Symbol.dispose && (t.prototype[Symbol.dispose] = t.prototype.free);
var n = class e {
	static __wrap(t) {
		let n = Object.create(e.prototype);
		return n.__wbg_ptr = t, v.register(n, n.__wbg_ptr, n), n;
	}
	__destroy_into_raw() {
		let e = this.__wbg_ptr;
		return this.__wbg_ptr = 0, v.unregister(this), e;
	}
	free() {
		let e = this.__destroy_into_raw();
		Z.__wbg_neighborresult_free(e, 0);
	}
	get distances() {
		let e = Z.neighborresult_distances(this.__wbg_ptr);
		var t = T(e[0], e[1]).slice();
		return Z.__wbindgen_free(e[0], e[1] * 4, 4), t;
	}
	get indices() {
		let e = Z.neighborresult_indices(this.__wbg_ptr);
		var t = E(e[0], e[1]).slice();
		return Z.__wbindgen_free(e[0], e[1] * 4, 4), t;
	}
	get nCols() {
		return Z.neighborresult_nCols(this.__wbg_ptr) >>> 0;
	}
	get nRows() {
		return Z.neighborresult_nRows(this.__wbg_ptr) >>> 0;
	}
};
Symbol.dispose && (n.prototype[Symbol.dispose] = n.prototype.free);
var r = class e {
	static __wrap(t) {
		let n = Object.create(e.prototype);
		return n.__wbg_ptr = t, y.register(n, n.__wbg_ptr, n), n;
	}
	__destroy_into_raw() {
		let e = this.__wbg_ptr;
		return this.__wbg_ptr = 0, y.unregister(this), e;
	}
	free() {
		let e = this.__destroy_into_raw();
		Z.__wbg_umapbuilder_free(e, 0);
	}
	build() {
		let e = this.__destroy_into_raw();
		return Z.umapbuilder_build(e);
	}
	gpu(t) {
		let n = this.__destroy_into_raw(), r = Z.umapbuilder_gpu(n, t);
		return e.__wrap(r);
	}
	initMethod(t) {
		let n = this.__destroy_into_raw(), r = U(t, Z.__wbindgen_malloc, Z.__wbindgen_realloc), i = X, a = Z.umapbuilder_initMethod(n, r, i);
		return e.__wrap(a);
	}
	learningRate(t) {
		let n = this.__destroy_into_raw(), r = Z.umapbuilder_learningRate(n, t);
		return e.__wrap(r);
	}
	localConnectivity(t) {
		let n = this.__destroy_into_raw(), r = Z.umapbuilder_localConnectivity(n, t);
		return e.__wrap(r);
	}
	metric(t) {
		let n = this.__destroy_into_raw(), r = U(t, Z.__wbindgen_malloc, Z.__wbindgen_realloc), i = X, a = Z.umapbuilder_metric(n, r, i);
		return e.__wrap(a);
	}
	minDist(t) {
		let n = this.__destroy_into_raw(), r = Z.umapbuilder_minDist(n, t);
		return e.__wrap(r);
	}
	mixRatio(t) {
		let n = this.__destroy_into_raw(), r = Z.umapbuilder_mixRatio(n, t);
		return e.__wrap(r);
	}
	nEpochs(t) {
		let n = this.__destroy_into_raw(), r = Z.umapbuilder_nEpochs(n, t);
		return e.__wrap(r);
	}
	nNeighbors(t) {
		let n = this.__destroy_into_raw(), r = Z.umapbuilder_nNeighbors(n, t);
		return e.__wrap(r);
	}
	negativeSampleRate(t) {
		let n = this.__destroy_into_raw(), r = Z.umapbuilder_negativeSampleRate(n, t);
		return e.__wrap(r);
	}
	constructor(e, t, n, r) {
		let i = H(e, Z.__wbindgen_malloc), a = X, o = Z.umapbuilder_new(i, a, t, n, r);
		return this.__wbg_ptr = o, y.register(this, this.__wbg_ptr, this), this;
	}
	optimizer(t) {
		let n = this.__destroy_into_raw(), r = U(t, Z.__wbindgen_malloc, Z.__wbindgen_realloc), i = X, a = Z.umapbuilder_optimizer(n, r, i);
		return e.__wrap(a);
	}
	progress(t) {
		let n = this.__destroy_into_raw(), r = Z.umapbuilder_progress(n, t);
		return e.__wrap(r);
	}
	randomState(t) {
		let n = this.__destroy_into_raw(), r = Z.umapbuilder_randomState(n, t);
		return e.__wrap(r);
	}
	repulsionStrength(t) {
		let n = this.__destroy_into_raw(), r = Z.umapbuilder_repulsionStrength(n, t);
		return e.__wrap(r);
	}
	spread(t) {
		let n = this.__destroy_into_raw(), r = Z.umapbuilder_spread(n, t);
		return e.__wrap(r);
	}
	verbose(t) {
		let n = this.__destroy_into_raw(), r = Z.umapbuilder_verbose(n, t);
		return e.__wrap(r);
	}
};
Symbol.dispose && (r.prototype[Symbol.dispose] = r.prototype.free);
var i = class e {
	static __wrap(t) {
		let n = Object.create(e.prototype);
		return n.__wbg_ptr = t, b.register(n, n.__wbg_ptr, n), n;
	}
	__destroy_into_raw() {
		let e = this.__wbg_ptr;
		return this.__wbg_ptr = 0, b.unregister(this), e;
	}
	free() {
		let e = this.__destroy_into_raw();
		Z.__wbg_umapfromknnbuilder_free(e, 0);
	}
	build() {
		let e = this.__destroy_into_raw();
		return Z.umapfromknnbuilder_build(e);
	}
	gpu(t) {
		let n = this.__destroy_into_raw(), r = Z.umapfromknnbuilder_gpu(n, t);
		return e.__wrap(r);
	}
	initMethod(t) {
		let n = this.__destroy_into_raw(), r = U(t, Z.__wbindgen_malloc, Z.__wbindgen_realloc), i = X, a = Z.umapfromknnbuilder_initMethod(n, r, i);
		return e.__wrap(a);
	}
	learningRate(t) {
		let n = this.__destroy_into_raw(), r = Z.umapfromknnbuilder_learningRate(n, t);
		return e.__wrap(r);
	}
	localConnectivity(t) {
		let n = this.__destroy_into_raw(), r = Z.umapfromknnbuilder_localConnectivity(n, t);
		return e.__wrap(r);
	}
	minDist(t) {
		let n = this.__destroy_into_raw(), r = Z.umapfromknnbuilder_minDist(n, t);
		return e.__wrap(r);
	}
	mixRatio(t) {
		let n = this.__destroy_into_raw(), r = Z.umapfromknnbuilder_mixRatio(n, t);
		return e.__wrap(r);
	}
	nEpochs(t) {
		let n = this.__destroy_into_raw(), r = Z.umapfromknnbuilder_nEpochs(n, t);
		return e.__wrap(r);
	}
	negativeSampleRate(t) {
		let n = this.__destroy_into_raw(), r = Z.umapfromknnbuilder_negativeSampleRate(n, t);
		return e.__wrap(r);
	}
	constructor(e, t, n, r) {
		let i = ne(e, Z.__wbindgen_malloc), a = X, o = H(t, Z.__wbindgen_malloc), s = X, c = Z.umapfromknnbuilder_new(i, a, o, s, n, r);
		return this.__wbg_ptr = c, b.register(this, this.__wbg_ptr, this), this;
	}
	optimizer(t) {
		let n = this.__destroy_into_raw(), r = U(t, Z.__wbindgen_malloc, Z.__wbindgen_realloc), i = X, a = Z.umapfromknnbuilder_optimizer(n, r, i);
		return e.__wrap(a);
	}
	progress(t) {
		let n = this.__destroy_into_raw(), r = Z.umapfromknnbuilder_progress(n, t);
		return e.__wrap(r);
	}
	randomState(t) {
		let n = this.__destroy_into_raw(), r = Z.umapfromknnbuilder_randomState(n, t);
		return e.__wrap(r);
	}
	repulsionStrength(t) {
		let n = this.__destroy_into_raw(), r = Z.umapfromknnbuilder_repulsionStrength(n, t);
		return e.__wrap(r);
	}
	spread(t) {
		let n = this.__destroy_into_raw(), r = Z.umapfromknnbuilder_spread(n, t);
		return e.__wrap(r);
	}
	verbose(t) {
		let n = this.__destroy_into_raw(), r = Z.umapfromknnbuilder_verbose(n, t);
		return e.__wrap(r);
	}
};
Symbol.dispose && (i.prototype[Symbol.dispose] = i.prototype.free);
var a = class e {
	static __wrap(t) {
		let n = Object.create(e.prototype);
		return n.__wbg_ptr = t, x.register(n, n.__wbg_ptr, n), n;
	}
	__destroy_into_raw() {
		let e = this.__wbg_ptr;
		return this.__wbg_ptr = 0, x.unregister(this), e;
	}
	free() {
		let e = this.__destroy_into_raw();
		Z.__wbg_umap_free(e, 0);
	}
	copyEmbeddingInto(e) {
		var t = H(e, Z.__wbindgen_malloc), n = X;
		Z.umap_copyEmbeddingInto(this.__wbg_ptr, t, n, e);
	}
	get embedding() {
		let e = Z.umap_embedding(this.__wbg_ptr);
		var t = T(e[0], e[1]).slice();
		return Z.__wbindgen_free(e[0], e[1] * 4, 4), t;
	}
	get epoch() {
		return Z.umap_epoch(this.__wbg_ptr);
	}
	get knnDistances() {
		let e = Z.umap_knnDistances(this.__wbg_ptr);
		var t = T(e[0], e[1]).slice();
		return Z.__wbindgen_free(e[0], e[1] * 4, 4), t;
	}
	get knnIndices() {
		let e = Z.umap_knnIndices(this.__wbg_ptr);
		var t = E(e[0], e[1]).slice();
		return Z.__wbindgen_free(e[0], e[1] * 4, 4), t;
	}
	get nComponents() {
		return Z.umap_nComponents(this.__wbg_ptr) >>> 0;
	}
	get nNeighbors() {
		return Z.umap_nNeighbors(this.__wbg_ptr) >>> 0;
	}
	get nRows() {
		return Z.umap_nRows(this.__wbg_ptr) >>> 0;
	}
	reset(e) {
		let t = U(e, Z.__wbindgen_malloc, Z.__wbindgen_realloc), n = X;
		Z.umap_reset(this.__wbg_ptr, t, n);
	}
	run() {
		return Z.umap_run(this.__wbg_ptr);
	}
	setOptimizer(e) {
		let t = U(e, Z.__wbindgen_malloc, Z.__wbindgen_realloc), n = X;
		Z.umap_setOptimizer(this.__wbg_ptr, t, n);
	}
	setParameters(e, t, n, r, i) {
		Z.umap_setParameters(this.__wbg_ptr, B(e) ? 2 ** 53 - 1 : Math.fround(e), B(t) ? 2 ** 53 - 1 : Math.fround(t), B(n) ? 2 ** 53 - 1 : Math.fround(n), B(r) ? 2 ** 53 - 1 : Math.fround(r), B(i) ? 2 ** 53 - 1 : Math.fround(i));
	}
	step(e) {
		return Z.umap_step(this.__wbg_ptr, e);
	}
};
Symbol.dispose && (a.prototype[Symbol.dispose] = a.prototype.free);
function o() {
	return {
		__proto__: null,
		"./umap_wasm_bg.js": {
			__proto__: null,
			__wbg_Error_bce6d499ff0a4aff: function(e, t) {
				return Error(P(e, t));
			},
			__wbg_Window_412fe051c1aa1519: function(e) {
				return e.Window;
			},
			__wbg_WorkerGlobalScope_349300f9b277afe1: function(e) {
				return e.WorkerGlobalScope;
			},
			__wbg___wbindgen_copy_to_typed_array_787746aeb47818bc: function(e, t, n) {
				new Uint8Array(n.buffer, n.byteOffset, n.byteLength).set(O(e, t));
			},
			__wbg___wbindgen_debug_string_edece8177ad01481: function(e, t) {
				let n = U(w(t), Z.__wbindgen_malloc, Z.__wbindgen_realloc), r = X;
				A().setInt32(e + 4, r, !0), A().setInt32(e + 0, n, !0);
			},
			__wbg___wbindgen_is_function_5cd60d5cf78b4eef: function(e) {
				return typeof e == "function";
			},
			__wbg___wbindgen_is_null_2042690d351e14f0: function(e) {
				return e === null;
			},
			__wbg___wbindgen_is_undefined_35bb9f4c7fd651d5: function(e) {
				return e === void 0;
			},
			__wbg___wbindgen_throw_9c31b086c2b26051: function(e, t) {
				throw Error(P(e, t));
			},
			__wbg__wbg_cb_unref_3fa391f3fcdb55f8: function(e) {
				e._wbg_cb_unref();
			},
			__wbg_beginComputePass_097033d61ef8af0f: function(e, t) {
				return e.beginComputePass(t);
			},
			__wbg_buffer_8d6798e32d1afd34: function(e) {
				return e.buffer;
			},
			__wbg_call_dfde26266607c996: function() {
				return z(function(e, t, n) {
					return e.call(t, n);
				}, arguments);
			},
			__wbg_call_faa0a261f288f846: function() {
				return z(function(e, t, n, r) {
					return e.call(t, n, r);
				}, arguments);
			},
			__wbg_copyBufferToBuffer_99ba10ae51f20b8a: function() {
				return z(function(e, t, n, r, i, a) {
					e.copyBufferToBuffer(t, n, r, i, a);
				}, arguments);
			},
			__wbg_createBindGroupLayout_1d37ac0dabfbed28: function() {
				return z(function(e, t) {
					return e.createBindGroupLayout(t);
				}, arguments);
			},
			__wbg_createBindGroup_3bccbd7517f0708e: function(e, t) {
				return e.createBindGroup(t);
			},
			__wbg_createBuffer_24b346170c9f54c8: function() {
				return z(function(e, t) {
					return e.createBuffer(t);
				}, arguments);
			},
			__wbg_createCommandEncoder_48a406baaa084912: function(e, t) {
				return e.createCommandEncoder(t);
			},
			__wbg_createComputePipeline_4efb4ca205a4b557: function(e, t) {
				return e.createComputePipeline(t);
			},
			__wbg_createPipelineLayout_f668b6fbdf877ab3: function(e, t) {
				return e.createPipelineLayout(t);
			},
			__wbg_createShaderModule_1b0812f3a4503221: function(e, t) {
				return e.createShaderModule(t);
			},
			__wbg_dispatchWorkgroups_1b750cb68e2eb693: function(e, t, n, r) {
				e.dispatchWorkgroups(t >>> 0, n >>> 0, r >>> 0);
			},
			__wbg_end_fd65a01a19361ec7: function(e) {
				e.end();
			},
			__wbg_finish_2440fb64e53f7d5a: function(e, t) {
				return e.finish(t);
			},
			__wbg_finish_4b40810f0b577bc2: function(e) {
				return e.finish();
			},
			__wbg_getMappedRange_55878eb97535ca19: function() {
				return z(function(e, t, n) {
					return e.getMappedRange(t, n);
				}, arguments);
			},
			__wbg_getRandomValues_76dfc69825c9c552: function() {
				return z(function(e, t) {
					globalThis.crypto.getRandomValues(O(e, t));
				}, arguments);
			},
			__wbg_gpu_bafbc1407fe850fb: function(e) {
				return e.gpu;
			},
			__wbg_instanceof_GpuAdapter_aff4b0f95a6c1c3e: function(e) {
				let t;
				try {
					t = e instanceof GPUAdapter;
				} catch {
					t = !1;
				}
				return t;
			},
			__wbg_label_4b6427d9045e3926: function(e, t) {
				let n = t.label, r = U(n, Z.__wbindgen_malloc, Z.__wbindgen_realloc), i = X;
				A().setInt32(e + 4, i, !0), A().setInt32(e + 0, r, !0);
			},
			__wbg_length_56fcd3e2b7e0299d: function(e) {
				return e.length;
			},
			__wbg_limits_2ae770381034d5ef: function(e) {
				return e.limits;
			},
			__wbg_limits_805a5a24eacdef89: function(e) {
				return e.limits;
			},
			__wbg_mapAsync_f7fe2e4825742580: function(e, t, n, r) {
				return e.mapAsync(t >>> 0, n, r);
			},
			__wbg_maxBindGroups_aeb19ade452446c6: function(e) {
				return e.maxBindGroups;
			},
			__wbg_maxBindingsPerBindGroup_56b9cd783b976459: function(e) {
				return e.maxBindingsPerBindGroup;
			},
			__wbg_maxBufferSize_b9cfa105ccd49524: function(e) {
				return e.maxBufferSize;
			},
			__wbg_maxColorAttachmentBytesPerSample_3853759407ab3c40: function(e) {
				return e.maxColorAttachmentBytesPerSample;
			},
			__wbg_maxColorAttachments_a9a3c5bc728fb56f: function(e) {
				return e.maxColorAttachments;
			},
			__wbg_maxComputeInvocationsPerWorkgroup_732f87215035d9e5: function(e) {
				return e.maxComputeInvocationsPerWorkgroup;
			},
			__wbg_maxComputeWorkgroupSizeX_4f1d6552edeba82a: function(e) {
				return e.maxComputeWorkgroupSizeX;
			},
			__wbg_maxComputeWorkgroupSizeY_170c377843fcdda9: function(e) {
				return e.maxComputeWorkgroupSizeY;
			},
			__wbg_maxComputeWorkgroupSizeZ_78bd13bc9226bc99: function(e) {
				return e.maxComputeWorkgroupSizeZ;
			},
			__wbg_maxComputeWorkgroupStorageSize_0a6873ffe86d432d: function(e) {
				return e.maxComputeWorkgroupStorageSize;
			},
			__wbg_maxComputeWorkgroupsPerDimension_7f64fa252d98d9e0: function(e) {
				return e.maxComputeWorkgroupsPerDimension;
			},
			__wbg_maxDynamicStorageBuffersPerPipelineLayout_548c4d8427692343: function(e) {
				return e.maxDynamicStorageBuffersPerPipelineLayout;
			},
			__wbg_maxDynamicUniformBuffersPerPipelineLayout_575f81e5a619fda4: function(e) {
				return e.maxDynamicUniformBuffersPerPipelineLayout;
			},
			__wbg_maxSampledTexturesPerShaderStage_4b0d0d0deb7f9173: function(e) {
				return e.maxSampledTexturesPerShaderStage;
			},
			__wbg_maxSamplersPerShaderStage_122e1c314b7d5f0e: function(e) {
				return e.maxSamplersPerShaderStage;
			},
			__wbg_maxStorageBufferBindingSize_69368e8c4a720d65: function(e) {
				return e.maxStorageBufferBindingSize;
			},
			__wbg_maxStorageBuffersPerShaderStage_483da9a48e09b2cd: function(e) {
				return e.maxStorageBuffersPerShaderStage;
			},
			__wbg_maxStorageTexturesPerShaderStage_825095cb824c2a90: function(e) {
				return e.maxStorageTexturesPerShaderStage;
			},
			__wbg_maxTextureArrayLayers_311d9cd973092ad3: function(e) {
				return e.maxTextureArrayLayers;
			},
			__wbg_maxTextureDimension1D_f14696527b4dd4c9: function(e) {
				return e.maxTextureDimension1D;
			},
			__wbg_maxTextureDimension2D_8a888981a9a496a3: function(e) {
				return e.maxTextureDimension2D;
			},
			__wbg_maxTextureDimension3D_af7a8c47b3a93760: function(e) {
				return e.maxTextureDimension3D;
			},
			__wbg_maxUniformBufferBindingSize_5cab04d98886e7d3: function(e) {
				return e.maxUniformBufferBindingSize;
			},
			__wbg_maxUniformBuffersPerShaderStage_14f4345c06c80500: function(e) {
				return e.maxUniformBuffersPerShaderStage;
			},
			__wbg_maxVertexAttributes_73ce901689262af1: function(e) {
				return e.maxVertexAttributes;
			},
			__wbg_maxVertexBufferArrayStride_4cb22981054e6df0: function(e) {
				return e.maxVertexBufferArrayStride;
			},
			__wbg_maxVertexBuffers_a6df2bc183ca7af0: function(e) {
				return e.maxVertexBuffers;
			},
			__wbg_minStorageBufferOffsetAlignment_2039bfddd5b42bd9: function(e) {
				return e.minStorageBufferOffsetAlignment;
			},
			__wbg_minUniformBufferOffsetAlignment_4366c5e24c3a2e2f: function(e) {
				return e.minUniformBufferOffsetAlignment;
			},
			__wbg_navigator_3334c390f542c642: function(e) {
				return e.navigator;
			},
			__wbg_navigator_3db7ba343e05d4d1: function(e) {
				return e.navigator;
			},
			__wbg_new_02d162bc6cf02f60: function() {
				return {};
			},
			__wbg_new_310879b66b6e95e1: function() {
				return [];
			},
			__wbg_new_from_slice_269e35316ed2d061: function(e, t) {
				return new Uint8Array(O(e, t));
			},
			__wbg_new_typed_c072c4ce9a2a0cdf: function(e, t) {
				try {
					var n = {
						a: e,
						b: t
					};
					return new Promise((e, t) => {
						let r = n.a;
						n.a = 0;
						try {
							return l(r, n.b, e, t);
						} finally {
							n.a = r;
						}
					});
				} finally {
					n.a = 0;
				}
			},
			__wbg_new_with_byte_offset_and_length_a87e79143162d67f: function(e, t, n) {
				return new Uint8Array(e, t >>> 0, n >>> 0);
			},
			__wbg_nndescentindex_new: function(e) {
				return t.__wrap(e);
			},
			__wbg_prototypesetcall_5f9bdc8d75e07276: function(e, t, n) {
				Uint8Array.prototype.set.call(O(e, t), n);
			},
			__wbg_push_b77c476b01548d0a: function(e, t) {
				return e.push(t);
			},
			__wbg_queueMicrotask_78d584b53af520f5: function(e) {
				return e.queueMicrotask;
			},
			__wbg_queueMicrotask_b39ea83c7f01971a: function(e) {
				queueMicrotask(e);
			},
			__wbg_queue_3e40156d83b9183e: function(e) {
				return e.queue;
			},
			__wbg_requestAdapter_245da40985c2fdc5: function(e, t) {
				return e.requestAdapter(t);
			},
			__wbg_requestDevice_28434913a23418c4: function(e, t) {
				return e.requestDevice(t);
			},
			__wbg_resolve_d17db9352f5a220e: function(e) {
				return Promise.resolve(e);
			},
			__wbg_setBindGroup_98f0303f15c3cfb4: function() {
				return z(function(e, t, n, r, i, a, o) {
					e.setBindGroup(t >>> 0, n, D(r, i), a, o >>> 0);
				}, arguments);
			},
			__wbg_setBindGroup_bc67abae8c962082: function(e, t, n) {
				e.setBindGroup(t >>> 0, n);
			},
			__wbg_setPipeline_0c34cc40ab8d6499: function(e, t) {
				e.setPipeline(t);
			},
			__wbg_set_37221b90dcdc9a98: function(e, t, n) {
				e.set(t, n >>> 0);
			},
			__wbg_set_a0e911be3da02782: function() {
				return z(function(e, t, n) {
					return Reflect.set(e, t, n);
				}, arguments);
			},
			__wbg_set_access_1cc7ab8607a9643c: function(e, t) {
				e.access = p[t];
			},
			__wbg_set_beginning_of_pass_write_index_ac45c363336c24c7: function(e, t) {
				e.beginningOfPassWriteIndex = t >>> 0;
			},
			__wbg_set_bind_group_layouts_b4667372bdcee99f: function(e, t) {
				e.bindGroupLayouts = t;
			},
			__wbg_set_binding_0a48264269982c5e: function(e, t) {
				e.binding = t >>> 0;
			},
			__wbg_set_binding_15ab1e2c74990b25: function(e, t) {
				e.binding = t >>> 0;
			},
			__wbg_set_buffer_3b3e4c4a884d1610: function(e, t) {
				e.buffer = t;
			},
			__wbg_set_buffer_ff433f6fc0bcc260: function(e, t) {
				e.buffer = t;
			},
			__wbg_set_code_c616b86ce504e24a: function(e, t, n) {
				e.code = P(t, n);
			},
			__wbg_set_compute_7c274f1347709d07: function(e, t) {
				e.compute = t;
			},
			__wbg_set_end_of_pass_write_index_c60088bc589e6882: function(e, t) {
				e.endOfPassWriteIndex = t >>> 0;
			},
			__wbg_set_entries_bfc700c1f97eec0b: function(e, t) {
				e.entries = t;
			},
			__wbg_set_entries_f07df780e3613292: function(e, t) {
				e.entries = t;
			},
			__wbg_set_entry_point_aa503b3bb9fed987: function(e, t, n) {
				e.entryPoint = P(t, n);
			},
			__wbg_set_format_b8158198b657d617: function(e, t) {
				e.format = ee[t];
			},
			__wbg_set_has_dynamic_offset_4d5601049080763e: function(e, t) {
				e.hasDynamicOffset = t !== 0;
			},
			__wbg_set_label_392dc66ad76d942d: function(e, t, n) {
				e.label = P(t, n);
			},
			__wbg_set_label_3e06143ad04772ae: function(e, t, n) {
				e.label = P(t, n);
			},
			__wbg_set_label_50f397060b5b5610: function(e, t, n) {
				e.label = P(t, n);
			},
			__wbg_set_label_68e2953cfd33a5a5: function(e, t, n) {
				e.label = P(t, n);
			},
			__wbg_set_label_76c4f74a38ff9bcd: function(e, t, n) {
				e.label = P(t, n);
			},
			__wbg_set_label_79484ec4d6d85bbf: function(e, t, n) {
				e.label = P(t, n);
			},
			__wbg_set_label_861c8e348e26599d: function(e, t, n) {
				e.label = P(t, n);
			},
			__wbg_set_label_d1b6a326332d0520: function(e, t, n) {
				e.label = P(t, n);
			},
			__wbg_set_label_d687cfb9a30329c8: function(e, t, n) {
				e.label = P(t, n);
			},
			__wbg_set_label_e345704005fb385b: function(e, t, n) {
				e.label = P(t, n);
			},
			__wbg_set_layout_b9b36c291ee7f2e1: function(e, t) {
				e.layout = t;
			},
			__wbg_set_layout_cccbb8f794df887c: function(e, t) {
				e.layout = t;
			},
			__wbg_set_mapped_at_creation_34da9d6bf64b78d6: function(e, t) {
				e.mappedAtCreation = t !== 0;
			},
			__wbg_set_min_binding_size_9389ad67218af140: function(e, t) {
				e.minBindingSize = t;
			},
			__wbg_set_module_5f33a55198ad797f: function(e, t) {
				e.module = t;
			},
			__wbg_set_multisampled_b526741755338725: function(e, t) {
				e.multisampled = t !== 0;
			},
			__wbg_set_offset_1a0f95ffb7dd6f40: function(e, t) {
				e.offset = t;
			},
			__wbg_set_power_preference_915480f4b9565dc2: function(e, t) {
				e.powerPreference = d[t];
			},
			__wbg_set_query_set_0a78c3dcb3650b2b: function(e, t) {
				e.querySet = t;
			},
			__wbg_set_required_features_42347bf311233eb6: function(e, t) {
				e.requiredFeatures = t;
			},
			__wbg_set_resource_f2d72f59cc9308fc: function(e, t) {
				e.resource = t;
			},
			__wbg_set_sample_type_6d1e240a417bdf44: function(e, t) {
				e.sampleType = m[t];
			},
			__wbg_set_sampler_f864a162bad4f66f: function(e, t) {
				e.sampler = t;
			},
			__wbg_set_size_6b2fc4a0e39e4d07: function(e, t) {
				e.size = t;
			},
			__wbg_set_size_c78ae8d2e2181815: function(e, t) {
				e.size = t;
			},
			__wbg_set_storage_texture_c3919f22b211c542: function(e, t) {
				e.storageTexture = t;
			},
			__wbg_set_texture_bf820de044f0d291: function(e, t) {
				e.texture = t;
			},
			__wbg_set_timestamp_writes_b9e1d87e2f057bd1: function(e, t) {
				e.timestampWrites = t;
			},
			__wbg_set_type_40f4ae4fa32946cd: function(e, t) {
				e.type = u[t];
			},
			__wbg_set_type_4f1cd48d79f4d6dc: function(e, t) {
				e.type = f[t];
			},
			__wbg_set_usage_9aa23fa1e13799a8: function(e, t) {
				e.usage = t >>> 0;
			},
			__wbg_set_view_dimension_36c0bf530395d014: function(e, t) {
				e.viewDimension = h[t];
			},
			__wbg_set_view_dimension_553cd9fa176d06ca: function(e, t) {
				e.viewDimension = h[t];
			},
			__wbg_set_visibility_eef2d8e9608a8981: function(e, t) {
				e.visibility = t >>> 0;
			},
			__wbg_static_accessor_GLOBAL_THIS_02344c9b09eb08a9: function() {
				let e = typeof globalThis > "u" ? null : globalThis;
				return B(e) ? 0 : S(e);
			},
			__wbg_static_accessor_GLOBAL_ac6d4ac874d5cd54: function() {
				let e = typeof global > "u" ? null : global;
				return B(e) ? 0 : S(e);
			},
			__wbg_static_accessor_SELF_9b2406c23aeb2023: function() {
				let e = typeof self > "u" ? null : self;
				return B(e) ? 0 : S(e);
			},
			__wbg_static_accessor_WINDOW_b34d2126934e16ba: function() {
				let e = typeof window > "u" ? null : window;
				return B(e) ? 0 : S(e);
			},
			__wbg_submit_2521bdd9a232bca7: function(e, t) {
				e.submit(t);
			},
			__wbg_then_837494e384b37459: function(e, t) {
				return e.then(t);
			},
			__wbg_then_87e0b598b245104b: function(e, t, n) {
				return e.then(t, n);
			},
			__wbg_then_bd927500e8905df2: function(e, t, n) {
				return e.then(t, n);
			},
			__wbg_umap_new: function(e) {
				return a.__wrap(e);
			},
			__wbg_unmap_815a075fd850cb73: function(e) {
				e.unmap();
			},
			__wbg_writeBuffer_e8b792fb0962f30d: function() {
				return z(function(e, t, n, r, i, a) {
					e.writeBuffer(t, n, r, i, a);
				}, arguments);
			},
			__wbindgen_cast_0000000000000001: function(e, t) {
				return V(e, t, s);
			},
			__wbindgen_cast_0000000000000002: function(e, t) {
				return V(e, t, c);
			},
			__wbindgen_cast_0000000000000003: function(e) {
				return e;
			},
			__wbindgen_cast_0000000000000004: function(e, t) {
				return O(e, t);
			},
			__wbindgen_cast_0000000000000005: function(e, t) {
				return P(e, t);
			},
			__wbindgen_init_externref_table: function() {
				let e = Z.__wbindgen_externrefs, t = e.grow(4);
				e.set(0, void 0), e.set(t + 0, void 0), e.set(t + 1, null), e.set(t + 2, !0), e.set(t + 3, !1);
			}
		}
	};
}
function s(e, t, n) {
	Z.wasm_bindgen_28b1390903b099ed___convert__closures_____invoke___wasm_bindgen_28b1390903b099ed___JsValue______true_(e, t, n);
}
function c(e, t, n) {
	let r = Z.wasm_bindgen_28b1390903b099ed___convert__closures_____invoke___wasm_bindgen_28b1390903b099ed___JsValue__core_608f92abc48d28da___result__Result_____wasm_bindgen_28b1390903b099ed___JsError___true_(e, t, n);
	if (r[1]) throw W(r[0]);
}
function l(e, t, n, r) {
	Z.wasm_bindgen_28b1390903b099ed___convert__closures_____invoke___js_sys_a4c7b85ddfe4cc81___Function_fn_wasm_bindgen_28b1390903b099ed___JsValue_____wasm_bindgen_28b1390903b099ed___sys__Undefined___js_sys_a4c7b85ddfe4cc81___Function_fn_wasm_bindgen_28b1390903b099ed___JsValue_____wasm_bindgen_28b1390903b099ed___sys__Undefined_______true_(e, t, n, r);
}
var u = [
	"uniform",
	"storage",
	"read-only-storage"
], d = ["low-power", "high-performance"], f = [
	"filtering",
	"non-filtering",
	"comparison"
], p = [
	"write-only",
	"read-only",
	"read-write"
], ee = /* @__PURE__ */ "r8unorm.r8snorm.r8uint.r8sint.r16uint.r16sint.r16float.rg8unorm.rg8snorm.rg8uint.rg8sint.r32uint.r32sint.r32float.rg16uint.rg16sint.rg16float.rgba8unorm.rgba8unorm-srgb.rgba8snorm.rgba8uint.rgba8sint.bgra8unorm.bgra8unorm-srgb.rgb9e5ufloat.rgb10a2uint.rgb10a2unorm.rg11b10ufloat.rg32uint.rg32sint.rg32float.rgba16uint.rgba16sint.rgba16float.rgba32uint.rgba32sint.rgba32float.stencil8.depth16unorm.depth24plus.depth24plus-stencil8.depth32float.depth32float-stencil8.bc1-rgba-unorm.bc1-rgba-unorm-srgb.bc2-rgba-unorm.bc2-rgba-unorm-srgb.bc3-rgba-unorm.bc3-rgba-unorm-srgb.bc4-r-unorm.bc4-r-snorm.bc5-rg-unorm.bc5-rg-snorm.bc6h-rgb-ufloat.bc6h-rgb-float.bc7-rgba-unorm.bc7-rgba-unorm-srgb.etc2-rgb8unorm.etc2-rgb8unorm-srgb.etc2-rgb8a1unorm.etc2-rgb8a1unorm-srgb.etc2-rgba8unorm.etc2-rgba8unorm-srgb.eac-r11unorm.eac-r11snorm.eac-rg11unorm.eac-rg11snorm.astc-4x4-unorm.astc-4x4-unorm-srgb.astc-5x4-unorm.astc-5x4-unorm-srgb.astc-5x5-unorm.astc-5x5-unorm-srgb.astc-6x5-unorm.astc-6x5-unorm-srgb.astc-6x6-unorm.astc-6x6-unorm-srgb.astc-8x5-unorm.astc-8x5-unorm-srgb.astc-8x6-unorm.astc-8x6-unorm-srgb.astc-8x8-unorm.astc-8x8-unorm-srgb.astc-10x5-unorm.astc-10x5-unorm-srgb.astc-10x6-unorm.astc-10x6-unorm-srgb.astc-10x8-unorm.astc-10x8-unorm-srgb.astc-10x10-unorm.astc-10x10-unorm-srgb.astc-12x10-unorm.astc-12x10-unorm-srgb.astc-12x12-unorm.astc-12x12-unorm-srgb".split("."), m = [
	"float",
	"unfilterable-float",
	"depth",
	"sint",
	"uint"
], h = [
	"1d",
	"2d",
	"2d-array",
	"cube",
	"cube-array",
	"3d"
], g = typeof FinalizationRegistry > "u" ? {
	register: () => {},
	unregister: () => {}
} : new FinalizationRegistry((e) => Z.__wbg_nndescentbuilder_free(e, 1)), _ = typeof FinalizationRegistry > "u" ? {
	register: () => {},
	unregister: () => {}
} : new FinalizationRegistry((e) => Z.__wbg_nndescentindex_free(e, 1)), v = typeof FinalizationRegistry > "u" ? {
	register: () => {},
	unregister: () => {}
} : new FinalizationRegistry((e) => Z.__wbg_neighborresult_free(e, 1)), y = typeof FinalizationRegistry > "u" ? {
	register: () => {},
	unregister: () => {}
} : new FinalizationRegistry((e) => Z.__wbg_umapbuilder_free(e, 1)), b = typeof FinalizationRegistry > "u" ? {
	register: () => {},
	unregister: () => {}
} : new FinalizationRegistry((e) => Z.__wbg_umapfromknnbuilder_free(e, 1)), x = typeof FinalizationRegistry > "u" ? {
	register: () => {},
	unregister: () => {}
} : new FinalizationRegistry((e) => Z.__wbg_umap_free(e, 1));
function S(e) {
	let t = Z.__externref_table_alloc();
	return Z.__wbindgen_externrefs.set(t, e), t;
}
var C = typeof FinalizationRegistry > "u" ? {
	register: () => {},
	unregister: () => {}
} : new FinalizationRegistry((e) => Z.__wbindgen_destroy_closure(e.a, e.b));
function w(e) {
	let t = typeof e;
	if (t == "number" || t == "boolean" || e == null) return `${e}`;
	if (t == "string") return `"${e}"`;
	if (t == "symbol") {
		let t = e.description;
		return t == null ? "Symbol" : `Symbol(${t})`;
	}
	if (t == "function") {
		let t = e.name;
		return typeof t == "string" && t.length > 0 ? `Function(${t})` : "Function";
	}
	if (Array.isArray(e)) {
		let t = e.length, n = "[";
		t > 0 && (n += w(e[0]));
		for (let r = 1; r < t; r++) n += ", " + w(e[r]);
		return n += "]", n;
	}
	let n = /\[object ([^\]]+)\]/.exec(toString.call(e)), r;
	if (n && n.length > 1) r = n[1];
	else return toString.call(e);
	if (r == "Object") try {
		return "Object(" + JSON.stringify(e) + ")";
	} catch {
		return "Object";
	}
	return e instanceof Error ? `${e.name}: ${e.message}\n${e.stack}` : r;
}
function T(e, t) {
	return e >>>= 0, M().subarray(e / 4, e / 4 + t);
}
function E(e, t) {
	return e >>>= 0, te().subarray(e / 4, e / 4 + t);
}
function D(e, t) {
	return e >>>= 0, I().subarray(e / 4, e / 4 + t);
}
function O(e, t) {
	return e >>>= 0, R().subarray(e / 1, e / 1 + t);
}
var k = null;
function A() {
	return (k === null || k.buffer.detached === !0 || k.buffer.detached === void 0 && k.buffer !== Z.memory.buffer) && (k = new DataView(Z.memory.buffer)), k;
}
var j = null;
function M() {
	return (j === null || j.byteLength === 0) && (j = new Float32Array(Z.memory.buffer)), j;
}
var N = null;
function te() {
	return (N === null || N.byteLength === 0) && (N = new Int32Array(Z.memory.buffer)), N;
}
function P(e, t) {
	return J(e >>> 0, t);
}
var F = null;
function I() {
	return (F === null || F.byteLength === 0) && (F = new Uint32Array(Z.memory.buffer)), F;
}
var L = null;
function R() {
	return (L === null || L.byteLength === 0) && (L = new Uint8Array(Z.memory.buffer)), L;
}
function z(e, t) {
	try {
		return e.apply(this, t);
	} catch (e) {
		let t = S(e);
		Z.__wbindgen_exn_store(t);
	}
}
function B(e) {
	return e == null;
}
function V(e, t, n) {
	let r = {
		a: e,
		b: t,
		cnt: 1
	}, i = (...e) => {
		r.cnt++;
		let t = r.a;
		r.a = 0;
		try {
			return n(t, r.b, ...e);
		} finally {
			r.a = t, i._wbg_cb_unref();
		}
	};
	return i._wbg_cb_unref = () => {
		--r.cnt === 0 && (Z.__wbindgen_destroy_closure(r.a, r.b), r.a = 0, C.unregister(r));
	}, C.register(i, r, r), i;
}
function ne(e, t) {
	let n = t(e.length * 4, 4) >>> 0;
	return I().set(e, n / 4), X = e.length, n;
}
function H(e, t) {
	let n = t(e.length * 4, 4) >>> 0;
	return M().set(e, n / 4), X = e.length, n;
}
function U(e, t, n) {
	if (n === void 0) {
		let n = Y.encode(e), r = t(n.length, 1) >>> 0;
		return R().subarray(r, r + n.length).set(n), X = n.length, r;
	}
	let r = e.length, i = t(r, 1) >>> 0, a = R(), o = 0;
	for (; o < r; o++) {
		let t = e.charCodeAt(o);
		if (t > 127) break;
		a[i + o] = t;
	}
	if (o !== r) {
		o !== 0 && (e = e.slice(o)), i = n(i, r, r = o + e.length * 3, 1) >>> 0;
		let t = R().subarray(i + o, i + r), a = Y.encodeInto(e, t);
		o += a.written, i = n(i, r, o, 1) >>> 0;
	}
	return X = o, i;
}
function W(e) {
	let t = Z.__wbindgen_externrefs.get(e);
	return Z.__externref_table_dealloc(e), t;
}
var G = new TextDecoder("utf-8", {
	ignoreBOM: !0,
	fatal: !0
});
G.decode();
var K = 2146435072, q = 0;
function J(e, t) {
	return q += t, q >= K && (G = new TextDecoder("utf-8", {
		ignoreBOM: !0,
		fatal: !0
	}), G.decode(), q = t), G.decode(R().subarray(e, e + t));
}
var Y = new TextEncoder();
"encodeInto" in Y || (Y.encodeInto = function(e, t) {
	let n = Y.encode(e);
	return t.set(n), {
		read: e.length,
		written: n.length
	};
});
var X = 0, Z;
function re(e, t) {
	return Z = e.exports, k = null, j = null, N = null, F = null, L = null, Z.__wbindgen_start(), Z;
}
async function ie(e, t) {
	if (typeof Response == "function" && e instanceof Response) {
		if (typeof WebAssembly.instantiateStreaming == "function") try {
			return await WebAssembly.instantiateStreaming(e, t);
		} catch (t) {
			if (e.ok && n(e.type) && e.headers.get("Content-Type") !== "application/wasm") console.warn("`WebAssembly.instantiateStreaming` failed because your server does not serve Wasm with `application/wasm` MIME type. Falling back to `WebAssembly.instantiate` which is slower. Original error:\n", t);
			else throw t;
		}
		let r = await e.arrayBuffer();
		return await WebAssembly.instantiate(r, t);
	} else {
		let n = await WebAssembly.instantiate(e, t);
		return n instanceof WebAssembly.Instance ? {
			instance: n,
			module: e
		} : n;
	}
	function n(e) {
		switch (e) {
			case "basic":
			case "cors":
			case "default": return !0;
		}
		return !1;
	}
}
async function Q(e) {
	if (Z !== void 0) return Z;
	e !== void 0 && (Object.getPrototypeOf(e) === Object.prototype ? {module_or_path: e} = e : console.warn("using deprecated parameters for the initialization function; pass a single object instead")), e === void 0 && (e = new URL("umap.wasm", import.meta.url));
	let t = o();
	(typeof e == "string" || typeof Request == "function" && e instanceof Request || typeof URL == "function" && e instanceof URL) && (e = fetch(e));
	let { instance: n, module: r } = await ie(await e, t);
	return re(n, r);
}
//#endregion
//#region ../umap/umap-wasm/index.js
async function ae(e, t, n, i, a = {}) {
	await Q();
	let o = new r(i, e, t, n);
	return a.metric != null && (o = o.metric(a.metric)), a.nNeighbors != null && (o = o.nNeighbors(a.nNeighbors)), a.minDist != null && (o = o.minDist(a.minDist)), a.spread != null && (o = o.spread(a.spread)), a.nEpochs != null && (o = o.nEpochs(a.nEpochs)), a.learningRate != null && (o = o.learningRate(a.learningRate)), a.negativeSampleRate != null && (o = o.negativeSampleRate(a.negativeSampleRate)), a.repulsionStrength != null && (o = o.repulsionStrength(a.repulsionStrength)), a.localConnectivity != null && (o = o.localConnectivity(a.localConnectivity)), a.mixRatio != null && (o = o.mixRatio(a.mixRatio)), a.initializeMethod != null && (o = o.initMethod(a.initializeMethod)), a.optimizer != null && (o = o.optimizer(a.optimizer)), a.seed != null && (o = o.randomState(BigInt(a.seed))), a.progress != null && (o = o.progress(a.progress)), a.gpu && (o = o.gpu(!0)), $(await o.build(), e, t, n);
}
async function oe(e, t, n, r, a = {}) {
	await Q();
	let o = new i(n, r, e, t);
	return a.minDist != null && (o = o.minDist(a.minDist)), a.spread != null && (o = o.spread(a.spread)), a.nEpochs != null && (o = o.nEpochs(a.nEpochs)), a.learningRate != null && (o = o.learningRate(a.learningRate)), a.negativeSampleRate != null && (o = o.negativeSampleRate(a.negativeSampleRate)), a.repulsionStrength != null && (o = o.repulsionStrength(a.repulsionStrength)), a.localConnectivity != null && (o = o.localConnectivity(a.localConnectivity)), a.mixRatio != null && (o = o.mixRatio(a.mixRatio)), a.initializeMethod != null && (o = o.initMethod(a.initializeMethod)), a.optimizer != null && (o = o.optimizer(a.optimizer)), a.seed != null && (o = o.randomState(BigInt(a.seed))), a.progress != null && (o = o.progress(a.progress)), a.gpu && (o = o.gpu(!0)), $(await o.build(), e, 0, t);
}
function se() {
	let e = !1, t = 0, n = Promise.resolve();
	function r(r) {
		t++;
		let i = n.then(async () => {
			e = !0;
			try {
				return await r();
			} finally {
				e = !1, t--;
			}
		});
		return n = i.then(() => {}, () => {}), i;
	}
	function i(e, n) {
		t === 0 ? n() : r(n).catch((t) => console.error(`UMAP: ${e} failed`, t));
	}
	return {
		get running() {
			return e;
		},
		enqueue: r,
		runOrQueue: i
	};
}
function $(e, t, n, r) {
	let i = se(), a = !1, o = new Float32Array(t * r);
	e.copyEmbeddingInto(o);
	let s = e.epoch, c = e.knnIndices, l = e.knnDistances, u = null;
	function d() {
		let t = u;
		e.setParameters(t.learningRate, t.repulsionStrength, t.negativeSampleRate, t.minDist, t.spread);
	}
	return {
		get inputDim() {
			return n;
		},
		get outputDim() {
			return r;
		},
		get epoch() {
			return a ? 0 : (i.running || (s = e.epoch), s);
		},
		get embedding() {
			return a ? new Float32Array() : (i.running || e.copyEmbeddingInto(o), o);
		},
		get knnIndices() {
			return a ? new Int32Array() : c;
		},
		get knnDistances() {
			return a ? new Float32Array() : l;
		},
		async run() {
			a || await i.enqueue(() => e.run());
		},
		async step(t = 1) {
			a || await i.enqueue(() => e.step(t));
		},
		setParameters(e = {}) {
			a || (u = {
				...u ?? {},
				...e
			}, i.runOrQueue("setParameters", d));
		},
		setOptimizer(t) {
			a || i.runOrQueue("setOptimizer", () => e.setOptimizer(t));
		},
		reset(t = "spectral") {
			a || i.runOrQueue("reset", () => e.reset(t));
		},
		destroy() {
			a || (a = !0, i.runOrQueue("free", () => e.free()));
		}
	};
}
async function ce(t, n, r, i = {}) {
	await Q();
	let a = i.metric ?? "euclidean", o = i.epsilon ?? .1, s = i.nNeighbors ?? 15, c = new e(r, t, n, a, s);
	i.nTrees != null && (c = c.nTrees(i.nTrees)), i.nIters != null && (c = c.nIters(i.nIters)), i.delta != null && (c = c.delta(i.delta)), i.treeInit != null && (c = c.treeInit(i.treeInit)), i.seed != null && (c = c.randomState(BigInt(i.seed))), i.progress != null && (c = c.progress(i.progress)), i.gpu && (c = c.gpu(!0));
	let l = await c.build(), u = l.neighborGraph(), d = new Int32Array(u.indices), f = new Float32Array(u.distances);
	u.free(), l.prepare();
	let p = !1;
	return {
		queryByIndex(e, i) {
			if (e < 0 || e >= t) throw RangeError(`Index ${e} out of bounds for ${t} points`);
			if (i <= s) {
				let t = e * s;
				return {
					indices: d.slice(t, t + i),
					distances: f.slice(t, t + i)
				};
			}
			let a = r.subarray(e * n, (e + 1) * n);
			return this.queryByVector(a, i);
		},
		queryByVector(e, t) {
			let r = l.query(e, 1, n, t, o), i = new Int32Array(r.indices), a = new Float32Array(r.distances);
			return r.free(), {
				indices: i,
				distances: a
			};
		},
		destroy() {
			p ||= (l.free(), !0);
		}
	};
}
//#endregion
export { oe as createUMAPFromKNN };
